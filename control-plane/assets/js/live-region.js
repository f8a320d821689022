// <live-region src="…/changes" fragment="live">: the server says "changed", the block is fetched again
// and merged into what is there, so that focus, selection and open details stay as they are.

// The one place where text becomes markup, and only text that our own server just sent.
const policy = window.trustedTypes?.createPolicy('portal', { createHTML: (text) => text });

function parse(text) {
  const html = policy ? policy.createHTML(text) : text;
  return new DOMParser().parseFromString(html, 'text/html').body;
}

/** What may glow. */
const SMALL = '.pill, .step-time, .step-note, dd, td, .seen';

/** What makes two elements the same thing: their id, or their tag and place. */
const key = (node) => (node.nodeType === 1 && node.id) || node.nodeName;

function mergeAttributes(from, to) {
  for (const { name } of [...from.attributes]) {
    // What the reader or another element did stays: open details, a dialog, a shown button.
    if (!to.hasAttribute(name) && !(name === 'open' || name === 'hidden')) from.removeAttribute(name);
  }
  for (const { name, value } of to.attributes) {
    if (from.getAttribute(name) !== value && !(name === 'hidden' && from.localName === 'button')) {
      from.setAttribute(name, value);
    }
  }
}

/** Makes `from` look like `to`, keeping every node that can be kept. */
function merge(from, to) {
  if (from.localName === 'time-ago') {
    const time = to.querySelector('time');
    if (from.querySelector('time')?.dateTime !== time?.dateTime) from.replaceChildren(...to.childNodes);
    return;
  }
  mergeAttributes(from, to);
  mergeChildren(from, to);
}

function mergeChildren(from, to) {
  let at = from.firstChild;
  for (const wanted of [...to.childNodes]) {
    let there = at;
    if (there && key(there) !== key(wanted) && wanted.id) {
      there = [...from.children].find((child) => child.id === wanted.id) ?? null;
      if (there) from.insertBefore(there, at);
    }
    if (!there || key(there) !== key(wanted)) {
      from.insertBefore(wanted, at);
      glow(wanted);
      continue;
    }
    if (there === at) at = at.nextSibling;
    if (there.nodeType !== 1) {
      if (there.data !== wanted.data) {
        there.data = wanted.data;
        if (wanted.data.trim()) glow(from);
      }
    } else if (!(there === document.activeElement && 'value' in there && there.type !== 'submit')) {
      merge(there, wanted);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

/** A changed value glows once: the small thing that holds it, never a whole part of the page. */
function glow(node) {
  const element = (node.nodeType === 1 ? node : node.parentElement)?.closest(SMALL);
  if (!element || element.closest('time-ago, copy-text')) return;
  element.classList.remove('changed');
  requestAnimationFrame(() => element.classList.add('changed'));
  setTimeout(() => element.classList.remove('changed'), 1000);
}

class LiveRegion extends HTMLElement {
  #source;
  #timer;
  #asking = false;
  #again = false;
  #stop = () => this.#close();
  #resume = () => { if (!document.hidden && !this.#source) this.#open(); };

  connectedCallback() {
    if (!this.getAttribute('src')) return;
    this.#open();
    addEventListener('pagehide', this.#stop);
    addEventListener('pageshow', this.#resume);
    document.addEventListener('visibilitychange', this.#resume);
  }

  disconnectedCallback() {
    this.#close();
    removeEventListener('pagehide', this.#stop);
    removeEventListener('pageshow', this.#resume);
    document.removeEventListener('visibilitychange', this.#resume);
  }

  #open() {
    this.#close();
    this.#source = new EventSource(this.getAttribute('src'));
    this.#source.addEventListener('changed', () => this.refresh());
    this.#source.addEventListener('error', () => {
      // The browser reopens a broken stream by itself; a refused one stays closed.
      if (this.#source?.readyState === EventSource.CLOSED) {
        this.#source = undefined;
        this.#timer = setTimeout(() => this.refresh().then(() => this.isConnected && this.#open()), 5000);
      }
    });
  }

  #close() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = undefined;
  }

  /** The page this is a part of; the answer to a refused form has another address, which cannot be fetched. */
  #page() {
    const page = this.getAttribute('src').replace(/\/changes(\?.*)?$/, '');
    return location.pathname === page ? location.href : page;
  }

  /** Fetches the block and merges it in; calls that come meanwhile become one more. */
  async refresh() {
    if (this.#asking) {
      this.#again = true;
      return;
    }
    this.#asking = true;
    try {
      const fragment = this.getAttribute('fragment') ?? 'live';
      const answer = await fetch(this.#page(), {
        headers: { accept: `text/html; fragment=${fragment}` },
        redirect: 'error',
      });
      if (answer.status === 401) location.reload();
      if (answer.ok) {
        const body = parse(await answer.text());
        const ended = !body.querySelector('[aria-current="step"]') && this.querySelector('[aria-current="step"]');
        mergeChildren(this, body);
        if (ended) this.dispatchEvent(new CustomEvent('ended', { bubbles: true }));
      }
    } catch {
      // Away for the moment; the next change or the reopened stream brings it.
    } finally {
      this.#asking = false;
      if (this.#again) {
        this.#again = false;
        this.refresh();
      }
    }
  }
}

customElements.define('live-region', LiveRegion);
