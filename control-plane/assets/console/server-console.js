// <server-console action="/servers/…/console">: asks for a ticket, opens its WebSocket and shows what comes:
// binary messages are the console's bytes, text messages say how many look and how it ended. Every word stands in
// the page, in a template with data-word.
import { Rfb } from './rfb.js';
import { Terminal } from './terminal.js';

class ServerConsole extends HTMLElement {
  #socket;

  #viewer;

  #ended;

  connectedCallback() {
    this.hidden = false;
    this.screen = this.querySelector('[data-part="screen"]');
    this.words = this.querySelector('template[data-words]').content;
    for (const button of this.querySelectorAll('[data-do]')) {
      button.addEventListener('click', () => this[`_${button.dataset.do}`](button));
    }
    for (const choice of this.querySelectorAll('[name="console-kind"]')) {
      choice.addEventListener('change', () => this._connect());
    }
    for (const kind of ['keydown', 'keyup']) this.screen.addEventListener(kind, (event) => this.#key(event));
    this.screen.addEventListener('blur', () => this.#viewer?.release());
    this.#say('idle');
    if (!this.hasAttribute('data-wait')) this._connect();
  }

  disconnectedCallback() { this.#drop(); }

  #word(name) { return this.words.querySelector(`[data-word="${name}"]`)?.textContent ?? ''; }

  #part(name) { return this.querySelector(`[data-part="${name}"]`); }

  #button(name) { return this.querySelector(`[data-do="${name}"]`); }

  // What is the case: `idle`, `connecting`, `connected` or `end-<word>`.
  #say(state) {
    this.dataset.state = state;
    this.#part('state').textContent = this.#word(state);
    const connected = state === 'connected';
    for (const name of ['disconnect', 'paste']) this.#button(name).disabled = !connected;
    this.#button('cad').disabled = !connected || !(this.#viewer instanceof Rfb);
    this.#button('connect').disabled = connected || state === 'connecting';
    if (state.startsWith('end-')) {
      this.#button('connect').textContent = this.#word('again');
      this.#part('viewers').hidden = true;
    }
  }

  #drop() {
    const socket = this.#socket;
    this.#socket = undefined;
    socket?.close();
    this.#viewer?.close?.();
    this.#viewer = undefined;
  }

  #end(word) {
    this.#drop();
    this.#say(`end-${this.#word(`end-${word}`) ? word : 'failed'}`);
  }

  async _connect() {
    this.#drop();
    this.#say('connecting');
    this.#ended = undefined;
    const { value: kind } = this.querySelector('[name="console-kind"]:checked');
    const attempt = Symbol(kind);
    this.attempt = attempt;
    let given;
    try {
      const answer = await fetch(this.getAttribute('action'), {
        method: 'POST', body: new URLSearchParams({ kind }), headers: { accept: 'application/json' }, redirect: 'manual',
      });
      given = answer.ok ? await answer.json() : { refused: 'ticket' };
    } catch {
      given = { refused: 'offline' };
    }
    if (this.attempt !== attempt || !this.isConnected) return;
    if (given.socket) this.#open(given.socket, kind);
    else this.#end(given.refused);
  }

  #open(path, kind) {
    const address = new URL(path, window.location.href);
    address.protocol = address.protocol === 'https:' ? 'wss:' : 'ws:';
    const socket = new WebSocket(address, 'binary');
    socket.binaryType = 'arraybuffer';
    this.#socket = socket;
    const send = (bytes) => { if (socket.readyState === WebSocket.OPEN) socket.send(bytes); };
    const events = {
      open: () => queueMicrotask(() => {
        if (this.#socket !== socket) return;
        this.#say('connected');
        this.screen.focus({ preventScroll: true });
      }),
      fault: () => { if (this.#socket === socket) this.#end('failed'); },
    };
    socket.addEventListener('message', ({ data }) => {
      if (this.#socket !== socket) return;
      const told = typeof data === 'string' ? JSON.parse(data) : undefined;
      if (told?.ended) this.#ended = told.ended;
      else {
        // Whatever comes first says that the host has opened it.
        this.#viewer ??= kind === 'vnc' ? new Rfb(this.screen, send, events) : new Terminal(this.screen, send, events);
        if (told) this.#looking(told.viewers);
        else this.#viewer.push(new Uint8Array(data));
      }
    });
    socket.addEventListener('close', () => {
      if (this.#socket === socket) this.#end(this.#ended ?? (this.#viewer ? 'lost' : 'ticket'));
    });
  }

  #looking(viewers) {
    const part = this.#part('viewers');
    part.hidden = false;
    part.textContent = viewers > 1 ? this.#word('several').replace('@', viewers) : this.#word('alone');
  }

  #key(event) {
    if (event.type === 'keydown' && event.ctrlKey && event.altKey && event.shiftKey) {
      // The way out of the screen for those who have no mouse.
      this.#viewer?.release();
      this.#button('disconnect').disabled ? this.#button('connect').focus() : this.#button('disconnect').focus();
      event.preventDefault();
      return;
    }
    if (this.#viewer?.keyboard(event)) event.preventDefault();
  }

  _disconnect() { this.#end('left'); }

  _cad() {
    this.#viewer?.ctrlAltDel?.();
    this.screen.focus();
  }

  _paste() {
    const field = this.querySelector('textarea');
    this.#viewer?.type(field.value);
    field.value = '';
    this.screen.focus();
  }

  _whole() { this.screen.requestFullscreen?.().then(() => this.screen.focus(), () => {}); }
}

customElements.define('server-console', ServerConsole);
