// A client of RFB 3.8 (RFC 6143) on a canvas: security type None, the encodings Raw and CopyRect, and
// the screen's size when it changes. Bytes come in by `push`, go out by the function `send`.
import { ALT, CONTROL, DELETE, SHIFT, keysym, typed } from './keys.js';

const COPY_RECT = 1;
const RAW = 0;
const DESKTOP_SIZE = -223;
// The largest side of a screen that is believed.
const LARGEST = 8192;

// Bytes that have come, handed out in the amounts they are asked for.
class Bytes {
  #chunks = [];

  #length = 0;

  #waiting;

  push(chunk) {
    this.#chunks.push(chunk);
    this.#length += chunk.length;
    if (this.#waiting && this.#length >= this.#waiting.count) {
      const { resolve, count } = this.#waiting;
      this.#waiting = undefined;
      resolve(this.#cut(count));
    }
  }

  take(count) {
    if (this.#length >= count) return this.#cut(count);
    return new Promise((resolve) => { this.#waiting = { resolve, count }; });
  }

  #cut(count) {
    const out = new Uint8Array(count);
    let at = 0;
    while (at < count) {
      const part = this.#chunks[0].subarray(0, count - at);
      out.set(part, at);
      at += part.length;
      if (part.length === this.#chunks[0].length) this.#chunks.shift();
      else this.#chunks[0] = this.#chunks[0].subarray(part.length);
    }
    this.#length -= count;
    return out;
  }
}

const view = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

export class Rfb {
  #bytes = new Bytes();

  #send;

  #canvas = document.createElement('canvas');

  #drawing = this.#canvas.getContext('2d');

  #held = new Map();

  #buttons = 0;

  // `events.open(name)` once the screen is there, `events.fault(text)` for what cannot be understood.
  constructor(screen, send, events) {
    this.#send = send;
    this.#canvas.width = 1;
    this.#canvas.height = 1;
    screen.replaceChildren(this.#canvas);
    this.#listen(screen);
    this.#run(events).catch((fault) => events.fault(fault.message));
  }

  push(bytes) { this.#bytes.push(bytes); }

  async #run(events) {
    const version = new TextDecoder().decode(await this.#bytes.take(12));
    if (!version.startsWith('RFB 003.008')) throw new Error(version);
    this.#send(new TextEncoder().encode('RFB 003.008\n'));
    const [count] = await this.#bytes.take(1);
    const types = count ? await this.#bytes.take(count) : [];
    if (![...types].includes(1)) throw new Error('security');
    this.#send(Uint8Array.of(1));
    if (view(await this.#bytes.take(4)).getUint32(0) !== 0) throw new Error('refused');
    // The screen is shared with whoever else looks.
    this.#send(Uint8Array.of(1));
    const init = view(await this.#bytes.take(24));
    this.#size(init.getUint16(0), init.getUint16(2));
    const name = new TextDecoder().decode(await this.#bytes.take(Math.min(init.getUint32(20), 4096)));
    // Four bytes a pixel, in the order in which a canvas has them.
    this.#send(Uint8Array.of(0, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 0, 8, 16, 0, 0, 0));
    const encodings = [COPY_RECT, RAW, DESKTOP_SIZE];
    const message = new DataView(new ArrayBuffer(4 + encodings.length * 4));
    message.setUint8(0, 2);
    message.setUint16(2, encodings.length);
    encodings.forEach((encoding, n) => message.setInt32(4 + n * 4, encoding));
    this.#send(new Uint8Array(message.buffer));
    this.#ask(false);
    events.open(name);
    for (;;) await this.#message();
  }

  #size(width, height) {
    if (!width || !height || width > LARGEST || height > LARGEST) throw new Error(`${width}×${height}`);
    this.#canvas.width = width;
    this.#canvas.height = height;
  }

  #ask(incremental) {
    const message = new DataView(new ArrayBuffer(10));
    message.setUint8(0, 3);
    message.setUint8(1, incremental ? 1 : 0);
    message.setUint16(6, this.#canvas.width);
    message.setUint16(8, this.#canvas.height);
    this.#send(new Uint8Array(message.buffer));
  }

  async #message() {
    const [kind] = await this.#bytes.take(1);
    switch (kind) {
      case 0: {
        const count = view(await this.#bytes.take(3)).getUint16(1);
        let whole = false;
        for (let n = 0; n < count; n += 1) whole = await this.#rectangle() || whole;
        this.#ask(!whole);
        break;
      }
      case 1: {
        // Colours of a palette, which a true-colour screen has not.
        const count = view(await this.#bytes.take(5)).getUint16(3);
        await this.#bytes.take(count * 6);
        break;
      }
      case 2: break;
      case 3: await this.#bytes.take(Math.abs(view(await this.#bytes.take(7)).getInt32(3))); break;
      default: throw new Error(`message ${kind}`);
    }
  }

  // One rectangle; whether the size of the screen changed.
  async #rectangle() {
    const head = view(await this.#bytes.take(12));
    const [x, y, width, height] = [0, 2, 4, 6].map((at) => head.getUint16(at));
    switch (head.getInt32(8)) {
      case RAW: {
        if (!width || !height) return false;
        const pixels = new Uint8ClampedArray((await this.#bytes.take(width * height * 4)).buffer);
        for (let at = 3; at < pixels.length; at += 4) pixels[at] = 255;
        this.#drawing.putImageData(new ImageData(pixels, width, height), x, y);
        return false;
      }
      case COPY_RECT: {
        const from = view(await this.#bytes.take(4));
        this.#drawing.drawImage(this.#canvas, from.getUint16(0), from.getUint16(2), width, height, x, y, width, height);
        return false;
      }
      case DESKTOP_SIZE:
        this.#size(width, height);
        return true;
      default: throw new Error(`encoding ${head.getInt32(8)}`);
    }
  }

  #key(down, symbol) {
    const message = new DataView(new ArrayBuffer(8));
    message.setUint8(0, 4);
    message.setUint8(1, down ? 1 : 0);
    message.setUint32(4, symbol);
    this.#send(new Uint8Array(message.buffer));
  }

  #pointer(event) {
    const box = this.#canvas.getBoundingClientRect();
    const place = (at, start, size, most) => Math.max(0, Math.min(most - 1, Math.round(((at - start) / size) * most)));
    const message = new DataView(new ArrayBuffer(6));
    message.setUint8(0, 5);
    message.setUint8(1, this.#buttons);
    message.setUint16(2, place(event.clientX, box.left, box.width, this.#canvas.width));
    message.setUint16(4, place(event.clientY, box.top, box.height, this.#canvas.height));
    this.#send(new Uint8Array(message.buffer));
  }

  #listen(screen) {
    const canvas = this.#canvas;
    const press = (event) => {
      // The left button is the first bit, the middle one the second, the right one the third.
      const bit = [1, 2, 4][event.button] ?? 0;
      this.#buttons = event.type === 'pointerdown' ? this.#buttons | bit : this.#buttons & ~bit;
      if (event.type === 'pointerdown') {
        screen.focus();
        canvas.setPointerCapture(event.pointerId);
      }
      this.#pointer(event);
      event.preventDefault();
    };
    canvas.addEventListener('pointerdown', press);
    canvas.addEventListener('pointerup', press);
    canvas.addEventListener('pointermove', (event) => this.#pointer(event));
    canvas.addEventListener('contextmenu', (event) => event.preventDefault());
    canvas.addEventListener('wheel', (event) => {
      if (document.activeElement !== screen) return;
      const held = this.#buttons;
      this.#buttons = held | (event.deltaY < 0 ? 8 : 16);
      this.#pointer(event);
      this.#buttons = held;
      this.#pointer(event);
      event.preventDefault();
    }, { passive: false });
  }

  // A key event; whether it was for the screen.
  keyboard(event) {
    if (event.type === 'keyup') {
      const symbol = this.#held.get(event.code);
      this.#held.delete(event.code);
      if (symbol !== undefined) this.#key(false, symbol);
      return symbol !== undefined;
    }
    const symbol = keysym(event);
    if (symbol === undefined) return false;
    this.#held.set(event.code, symbol);
    this.#key(true, symbol);
    return true;
  }

  // The focus is gone: no key is held any more.
  release() {
    for (const symbol of this.#held.values()) this.#key(false, symbol);
    this.#held.clear();
  }

  type(text) {
    for (const [symbol, shifted] of typed(text)) {
      if (shifted) this.#key(true, SHIFT);
      this.#key(true, symbol);
      this.#key(false, symbol);
      if (shifted) this.#key(false, SHIFT);
    }
  }

  ctrlAltDel() {
    const keys = [CONTROL, ALT, DELETE];
    keys.forEach((symbol) => this.#key(true, symbol));
    keys.reverse().forEach((symbol) => this.#key(false, symbol));
  }
}
