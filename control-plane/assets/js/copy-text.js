// <copy-text><code>…</code><button hidden>Copy</button></copy-text>: shows the button and copies.
class CopyText extends HTMLElement {
  connectedCallback() {
    const button = this.querySelector('button');
    const text = this.querySelector('code');
    if (!button || !text || !navigator.clipboard) return;
    button.hidden = false;
    button.addEventListener('click', async () => {
      const label = button.textContent;
      try {
        await navigator.clipboard.writeText(text.textContent);
        button.textContent = this.dataset.copied;
        setTimeout(() => { button.textContent = label; }, 1600);
      } catch {
        getSelection().selectAllChildren(text);
      }
    });
  }
}

customElements.define('copy-text', CopyText);
