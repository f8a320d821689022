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
    const per = interval?.value ?? 'month';
    for (const input of this.querySelectorAll('input[name="plan"]')) {
      const full = input.dataset.soldOut?.split(' ').includes(location.value);
      input.closest('.choice').toggleAttribute('data-full', Boolean(full));
      const price = input.closest('.choice').querySelector('[data-price]');
      const small = document.createElement('small');
      small.textContent = interval?.dataset.per ?? '';
      const text = input.getAttribute(`data-${per}-price`);
      if (text && price && interval) price.replaceChildren(text, small);
    }
    for (const [what, input] of [['plan', plan], ['location', location], ['image', image]]) {
      this.#say(what, input?.dataset.name);
    }
    this.#say('price', plan.getAttribute(`data-${per}-price`));
    this.#say('next', plan.getAttribute(`data-${per}-next`));
    this.#say('pay', plan.getAttribute(`data-${per}-pay`));
    const quoted = this.querySelector('input[name="quoted"]');
    if (quoted) quoted.value = plan.getAttribute(`data-${per}-minor`) ?? quoted.value;
  }
}

customElements.define('order-summary', OrderSummary);
