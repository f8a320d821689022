// <order-summary><form>…</form></order-summary>: keeps the summary and the button true to the choices.
// Without it the server compares the total and asks again.
class OrderSummary extends HTMLElement {
  connectedCallback() {
    this.addEventListener('change', () => this.#update());
    this.#update();
  }

  #chosen(name) {
    return this.querySelector(`input[name="${name}"]:checked`);
  }

  #say(what, text) {
    const place = this.querySelector(`[data-summary="${what}"]`);
    if (place && text && place.textContent !== text) place.textContent = text;
  }

  #update() {
    const [plan, location, image, interval] = ['plan', 'location', 'image', 'interval'].map((n) => this.#chosen(n));
    if (!plan || !location) return;
    const currency = this.#chosen('currency') ?? this.querySelector('input[name="currency"]');
    const way = `${interval?.value ?? 'month'}-${currency?.value ?? ''}`;
    for (const input of this.querySelectorAll('input[name="plan"]')) {
      const full = input.dataset.soldOut?.split(' ').includes(location.value);
      const price = input.closest('.choice').querySelector('[data-price]');
      const text = input.getAttribute(`data-${way}-price`);
      input.closest('.choice').toggleAttribute('data-full', Boolean(full) || !text);
      const notes = text
        ? [interval?.dataset.per ?? '', input.getAttribute(`data-${way}-note`)]
        : [this.dataset.notSo ?? ''];
      if (price && interval) price.replaceChildren(text ?? '', ...notes.filter(Boolean).map((note) => this.#small(note)));
    }
    for (const [what, input] of [['plan', plan], ['location', location], ['image', image]]) {
      this.#say(what, input?.dataset.name);
    }
    // A plan that is not sold in this interval and currency has no sum, and cannot be ordered.
    const sold = plan.hasAttribute(`data-${way}-price`);
    const [button, next] = ['pay', 'next'].map((what) => this.querySelector(`[data-summary="${what}"]`));
    if (button) button.disabled = !sold;
    if (next) next.hidden = !sold;
    this.#say('today', sold ? plan.getAttribute(`data-${way}-today`) : this.dataset.notSo);
    this.#say('next', plan.getAttribute(`data-${way}-next`));
    this.#say('pay', plan.getAttribute(`data-${way}-pay`));
    for (const [name, what] of [['quoted', 'minor'], ['quoted_then', 'then']]) {
      const quoted = this.querySelector(`input[name="${name}"]`);
      if (quoted) quoted.value = plan.getAttribute(`data-${way}-${what}`) ?? quoted.value;
    }
  }

  #small(text) {
    const small = document.createElement('small');
    small.textContent = text;
    return small;
  }
}

customElements.define('order-summary', OrderSummary);
