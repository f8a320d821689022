// <confirm-dialog data-question data-yes data-no><form>…</form></confirm-dialog>: asks before sending.
// With data-of (a field's name) and data-unit it shows once more what was typed there.
class ConfirmDialog extends HTMLElement {
  connectedCallback() {
    const form = this.querySelector('form');
    form?.addEventListener('submit', (event) => {
      if (this.confirmed) return;
      event.preventDefault();
      this.#ask(form);
    });
  }

  #ask(form) {
    const dialog = document.createElement('dialog');
    const question = document.createElement('p');
    question.textContent = this.dataset.question;
    question.id = 'confirm-question';
    dialog.setAttribute('aria-labelledby', question.id);
    const actions = document.createElement('div');
    actions.className = 'actions';
    const yes = this.#button(this.dataset.yes, 'button primary');
    const no = this.#button(this.dataset.no, 'button');
    yes.addEventListener('click', () => {
      this.confirmed = true;
      dialog.close();
      form.requestSubmit();
    });
    no.addEventListener('click', () => dialog.close());
    dialog.addEventListener('close', () => dialog.remove());
    actions.append(yes, no);
    const typed = form.elements.namedItem(this.dataset.of ?? '')?.value;
    if (typed) {
      const amount = document.createElement('p');
      amount.className = 'sentence';
      amount.id = 'confirm-typed';
      dialog.setAttribute('aria-describedby', amount.id);
      amount.textContent = `${typed} ${this.dataset.unit ?? ''}`;
      dialog.append(amount);
    }
    dialog.append(question, actions);
    // Beside the page, not inside a live region that may be merged while the question stands.
    document.body.append(dialog);
    dialog.showModal();
    no.focus();
  }

  #button(text, kind) {
    const button = document.createElement('button');
    button.type = 'button';
    button.className = kind;
    button.textContent = text;
    return button;
  }
}

customElements.define('confirm-dialog', ConfirmDialog);
