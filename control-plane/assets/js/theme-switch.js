// <theme-switch><form>…</form></theme-switch>: applies the choice at once and stores it in the background.
class ThemeSwitch extends HTMLElement {
  connectedCallback() {
    const form = this.querySelector('form');
    form?.addEventListener('submit', (event) => {
      const choice = event.submitter?.value;
      if (!choice) return;
      event.preventDefault();
      const root = document.documentElement;
      if (choice === 'auto') delete root.dataset.theme;
      else root.dataset.theme = choice;
      for (const button of document.querySelectorAll('theme-switch button')) {
        button.setAttribute('aria-pressed', String(button.value === choice));
      }
      const body = new URLSearchParams({ theme: choice, back: location.pathname });
      fetch(form.action, { method: 'POST', body, redirect: 'manual' }).catch(() => {});
    });
  }
}

customElements.define('theme-switch', ThemeSwitch);
