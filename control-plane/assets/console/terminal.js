// A serial line in the page: draws a Screen as rows of text, and writes what Proxmox's terminal proxy reads:
// `0:<length>:<bytes>`, `1:<columns>:<rows>:` and `2` (still here).
import { sequence } from './keys.js';
import { Screen } from './screen.js';

const LEAST = { columns: 20, lines: 10 };
const MOST = { columns: 250, lines: 80 };
const LINES = 24;
const COLUMNS = 80;
const STILL_HERE = 30_000;
// Longest piece of a pasted text that is sent at once.
const PIECE = 4096;

const encoder = new TextEncoder();

export class Terminal {
  #send;

  #element;

  #screen;

  #rows = document.createElement('pre');

  #resized;

  #still;

  #drawing;

  constructor(element, send, events) {
    this.#element = element;
    this.#send = send;
    this.#rows.className = 'terminal';
    element.replaceChildren(this.#rows);
    this.#screen = new Screen(COLUMNS, LINES, (text) => this.#write(text));
    this.#fit();
    this.#resized = new ResizeObserver(() => this.#fit());
    this.#resized.observe(element);
    this.#still = setInterval(() => send(encoder.encode('2')), STILL_HERE);
    this.#element.addEventListener('paste', this.#pasted);
    events.open('');
    // A line that was quiet shows its prompt again.
    this.#draw();
  }

  push(bytes) {
    this.#screen.write(bytes);
    this.#drawing ??= requestAnimationFrame(() => this.#draw());
  }

  close() {
    this.#resized.disconnect();
    clearInterval(this.#still);
    this.#element.removeEventListener('paste', this.#pasted);
  }

  // How many characters fit; the server is told.
  #fit() {
    const probe = document.createElement('span');
    probe.textContent = '0'.repeat(20);
    this.#rows.append(probe);
    const width = probe.getBoundingClientRect().width / 20;
    probe.remove();
    const style = getComputedStyle(this.#element);
    const room = this.#element.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const clamp = (n, least, most) => Math.max(least, Math.min(most, n));
    const columns = width > 0 ? clamp(Math.floor(room / width), LEAST.columns, MOST.columns) : COLUMNS;
    const whole = document.fullscreenElement?.contains(this.#element);
    const height = parseFloat(getComputedStyle(this.#rows).lineHeight) || 18;
    const lines = whole ? clamp(Math.floor(this.#element.clientHeight / height), LEAST.lines, MOST.lines) : LINES;
    if (this.#told?.columns === columns && this.#told.lines === lines) return;
    this.#told = { columns, lines };
    this.#screen.resize(columns, lines);
    this.#send(encoder.encode(`1:${columns}:${lines}:`));
    this.#draw();
  }

  #told;

  #draw() {
    this.#drawing = undefined;
    const screen = this.#screen;
    while (this.#rows.children.length > screen.lines) this.#rows.lastChild.remove();
    while (this.#rows.children.length < screen.lines) this.#rows.append(document.createElement('div'));
    for (const y of screen.changed) if (y < screen.lines) this.#row(this.#rows.children[y], y);
    screen.changed.clear();
  }

  // One line: neighbours that look alike share an element.
  #row(element, y) {
    const screen = this.#screen;
    const parts = [];
    let last;
    screen.rows[y].forEach((cell, x) => {
      const here = screen.cursorShown && screen.cursor.y === y && Math.min(screen.cursor.x, screen.columns - 1) === x;
      const [fore, back] = cell.swapped ? [cell.back, cell.fore] : [cell.fore, cell.back];
      const look = [
        fore >= 0 ? `f${cell.bold && fore < 8 ? fore + 8 : fore}` : '', back >= 0 ? `b${back}` : '',
        cell.bold ? 'bold' : '', cell.line ? 'line' : '', cell.swapped ? 'swapped' : '', here ? 'cursor' : '',
      ].filter(Boolean).join(' ');
      if (last?.look === look) last.text += cell.text;
      else {
        last = { look, text: cell.text };
        parts.push(last);
      }
    });
    element.replaceChildren(...parts.map(({ look, text }) => {
      if (!look) return document.createTextNode(text);
      const span = document.createElement('span');
      span.className = look;
      span.textContent = text;
      return span;
    }));
  }

  #write(text) {
    const bytes = encoder.encode(text);
    for (let at = 0; at < bytes.length; at += PIECE) {
      const piece = bytes.subarray(at, at + PIECE);
      const head = encoder.encode(`0:${piece.length}:`);
      const message = new Uint8Array(head.length + piece.length);
      message.set(head);
      message.set(piece, head.length);
      this.#send(message);
    }
  }

  #pasted = (event) => {
    this.type(event.clipboardData.getData('text'));
    event.preventDefault();
  };

  // A key event; whether it was for the line.
  keyboard(event) {
    // Ctrl+V and Ctrl+Shift+V paste, as the page's own event.
    const pastes = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === 'v';
    if (event.type === 'keyup' || pastes) return false;
    const text = sequence(event, this.#screen.application);
    if (text === undefined) return false;
    this.#write(text);
    return true;
  }

  release() { /* Bytes are not held. */ }

  type(text) { this.#write(text.replace(/\r\n?|\n/g, '\r')); }
}
