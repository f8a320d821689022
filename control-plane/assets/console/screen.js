// What a terminal shows: a grid of characters, and the part of VT100 and xterm that servers write at boot,
// in shells and in editors. No DOM here.

const BLANK = { text: ' ', fore: -1, back: -1, bold: false, line: false, swapped: false };

// A colour of 256 or a mixed one as the nearest of the sixteen.
const nearest = (red, green, blue) => {
  const most = Math.max(red, green, blue);
  if (most < 48) return 0;
  const bit = (part) => (part > most * 0.6 ? 1 : 0);
  return bit(red) + bit(green) * 2 + bit(blue) * 4 + (most > 170 ? 8 : 0);
};
const of256 = (n) => {
  if (n < 16) return n;
  if (n >= 232) return nearest(...Array(3).fill(8 + (n - 232) * 10));
  const part = (by) => [0, 95, 135, 175, 215, 255][Math.floor((n - 16) / by) % 6];
  return nearest(part(36), part(6), part(1));
};

// Wide characters take two cells.
const isWide = (code) => (code >= 0x1100 && code <= 0x115f) || (code >= 0x2e80 && code <= 0xa4cf)
  || (code >= 0xac00 && code <= 0xd7a3) || (code >= 0xf900 && code <= 0xfaff) || (code >= 0xfe30 && code <= 0xfe6f)
  || (code >= 0xff00 && code <= 0xff60) || (code >= 0x1f300 && code <= 0x1faff);
const isMark = (code) => (code >= 0x300 && code <= 0x36f) || code === 0x200d || (code >= 0xfe00 && code <= 0xfe0f);

export class Screen {
  rows = [];

  changed = new Set();

  cursor = { x: 0, y: 0 };

  cursorShown = true;

  application = false;

  #pen = { ...BLANK };

  #top = 0;

  #bottom;

  #saved;

  #other;

  #state = 'text';

  #sequence = '';

  #decoder = new TextDecoder();

  #answers;

  // `answers(text)`: what the terminal says by itself, when it is asked where its cursor is.
  constructor(columns, lines, answers) {
    this.columns = columns;
    this.lines = lines;
    this.#bottom = lines - 1;
    this.#answers = answers;
    this.rows = Array.from({ length: lines }, () => this.#blankRow());
    this.#all();
  }

  #blankRow() { return Array.from({ length: this.columns }, () => ({ ...BLANK, back: this.#pen.back })); }

  #all() { for (let y = 0; y < this.lines; y += 1) this.changed.add(y); }

  resize(columns, lines) {
    for (const row of this.rows) {
      while (row.length < columns) row.push({ ...BLANK });
      row.length = columns;
    }
    while (this.rows.length > lines) {
      // What is above goes first, as long as the cursor keeps its line.
      if (this.cursor.y > 0 && this.cursor.y >= lines) {
        this.rows.shift();
        this.cursor.y -= 1;
      } else this.rows.pop();
    }
    this.columns = columns;
    while (this.rows.length < lines) this.rows.push(this.#blankRow());
    this.lines = lines;
    this.#top = 0;
    this.#bottom = lines - 1;
    this.#other = undefined;
    this.cursor.x = Math.min(this.cursor.x, columns - 1);
    this.cursor.y = Math.min(this.cursor.y, lines - 1);
    this.changed.clear();
    this.#all();
  }

  write(bytes) {
    this.changed.add(this.cursor.y);
    for (const character of this.#decoder.decode(bytes, { stream: true })) this.#take(character);
    this.changed.add(this.cursor.y);
  }

  #take(character) {
    const code = character.codePointAt(0);
    if (code === 0x1b) {
      this.#state = 'escape';
      this.#sequence = '';
    } else if (code === 0x18 || code === 0x1a) this.#state = 'text';
    else if (code < 0x20 && this.#state !== 'string') this.#control(code);
    else this[`_${this.#state}`](character, code);
  }

  #control(code) {
    if (code === 8) this.cursor.x = Math.max(0, Math.min(this.cursor.x, this.columns - 1) - 1);
    else if (code === 9) this.cursor.x = Math.min(this.columns - 1, (Math.floor(this.cursor.x / 8) + 1) * 8);
    else if (code >= 10 && code <= 12) this.#down();
    else if (code === 13) this.cursor.x = 0;
  }

  _text(character, code) {
    if (code === 0x7f) return;
    if (isMark(code)) {
      const before = this.rows[this.cursor.y][Math.max(0, this.cursor.x - 1)];
      before.text += character;
      return;
    }
    const width = isWide(code) ? 2 : 1;
    if (this.cursor.x + width > this.columns) {
      this.cursor.x = 0;
      this.#down();
    }
    const row = this.rows[this.cursor.y];
    row[this.cursor.x] = { ...this.#pen, text: character };
    if (width === 2) row[this.cursor.x + 1] = { ...this.#pen, text: '' };
    this.cursor.x += width;
    this.changed.add(this.cursor.y);
  }

  #down() {
    this.changed.add(this.cursor.y);
    if (this.cursor.y === this.#bottom) this.#scroll(1);
    else this.cursor.y = Math.min(this.lines - 1, this.cursor.y + 1);
    this.changed.add(this.cursor.y);
  }

  // Moves the lines of the region up, or down for a negative count.
  #scroll(count, from = this.#top) {
    for (let n = 0; n < Math.min(Math.abs(count), this.lines); n += 1) {
      this.rows.splice(count > 0 ? from : this.#bottom, 1);
      this.rows.splice(count > 0 ? this.#bottom : from, 0, this.#blankRow());
    }
    for (let y = from; y <= this.#bottom; y += 1) this.changed.add(y);
  }

  _escape(character) {
    this.#state = 'text';
    switch (character) {
      case '[': this.#state = 'command'; break;
      case ']': case 'P': case '^': case '_': case 'X': this.#state = 'string'; break;
      case '(': case ')': case '*': case '+': case '#': case '%': this.#state = 'skip'; break;
      case '7': this.#saved = { ...this.cursor, pen: { ...this.#pen } }; break;
      case '8': this.#restore(); break;
      case 'D': this.#down(); break;
      case 'E': this.cursor.x = 0; this.#down(); break;
      case 'M':
        this.changed.add(this.cursor.y);
        if (this.cursor.y === this.#top) this.#scroll(-1);
        else this.cursor.y = Math.max(0, this.cursor.y - 1);
        break;
      case 'c': this.#reset(); break;
      default:
    }
  }

  _skip() { this.#state = 'text'; }

  // Titles and the like: passed over up to their end.
  _string(character, code) { if (code === 7 || code === 0x9c) this.#state = 'text'; }

  _command(character, code) {
    if (code < 0x40 || this.#sequence.length > 64) {
      this.#sequence += character;
      if (this.#sequence.length > 128) this.#state = 'text';
      return;
    }
    this.#state = 'text';
    const own = /^[?>=!]/.test(this.#sequence);
    const numbers = this.#sequence.replace(/[^0-9;:]/g, '').split(/[;:]/).map((text) => (text === '' ? undefined : Number(text)));
    this.changed.add(this.cursor.y);
    if (own) this.#mode(character, numbers);
    else this.#command(character, numbers);
    this.changed.add(this.cursor.y);
  }

  #mode(character, numbers) {
    if (character !== 'h' && character !== 'l') return;
    const on = character === 'h';
    for (const number of numbers) {
      if (number === 1) this.application = on;
      else if (number === 25) this.cursorShown = on;
      else if (number === 47 || number === 1047 || number === 1049) this.#alternate(on);
    }
  }

  // Editors have a screen of their own.
  #alternate(on) {
    if (on === Boolean(this.#other)) return;
    if (on) {
      this.#other = { rows: this.rows, cursor: { ...this.cursor } };
      this.rows = Array.from({ length: this.lines }, () => this.#blankRow());
    } else {
      this.rows = this.#other.rows;
      this.cursor = this.#other.cursor;
      this.#other = undefined;
    }
    this.#all();
  }

  #command(character, numbers) {
    const first = numbers[0] || 1;
    const within = (at, most) => Math.max(0, Math.min(most - 1, at));
    const row = this.rows[this.cursor.y];
    const x = Math.min(this.cursor.x, this.columns - 1);
    const blank = () => ({ ...BLANK, back: this.#pen.back });
    const { cursor } = this;
    switch (character) {
      case 'A': cursor.y = within(cursor.y - first, this.lines); break;
      case 'B': case 'e': cursor.y = within(cursor.y + first, this.lines); break;
      case 'C': case 'a': cursor.x = within(x + first, this.columns); break;
      case 'D': cursor.x = within(x - first, this.columns); break;
      case 'E': cursor.x = 0; cursor.y = within(cursor.y + first, this.lines); break;
      case 'F': cursor.x = 0; cursor.y = within(cursor.y - first, this.lines); break;
      case 'G': case '`': cursor.x = within(first - 1, this.columns); break;
      case 'd': cursor.y = within(first - 1, this.lines); break;
      case 'H': case 'f':
        cursor.y = within(first - 1, this.lines);
        cursor.x = within((numbers[1] || 1) - 1, this.columns);
        break;
      case 'J': this.#erase(numbers[0] ?? 0, x); break;
      case 'K': {
        const [from, to] = [[x, this.columns], [0, x + 1], [0, this.columns]][numbers[0] ?? 0] ?? [0, 0];
        for (let at = from; at < to; at += 1) row[at] = blank();
        break;
      }
      case 'L': if (this.#inRegion()) this.#scroll(-first, cursor.y); break;
      case 'M': if (this.#inRegion()) this.#scroll(first, cursor.y); break;
      case 'S': this.#scroll(first); break;
      case 'T': this.#scroll(-first); break;
      case 'P':
        row.splice(x, Math.min(first, this.columns - x));
        while (row.length < this.columns) row.push(blank());
        break;
      case '@':
        for (let n = 0; n < Math.min(first, this.columns - x); n += 1) row.splice(x, 0, blank());
        row.length = this.columns;
        break;
      case 'X': for (let at = x; at < Math.min(this.columns, x + first); at += 1) row[at] = blank(); break;
      case 'm': this.#colours(numbers); break;
      case 'r': {
        const top = within(first - 1, this.lines);
        const bottom = within((numbers[1] || this.lines) - 1, this.lines);
        if (top < bottom) [this.#top, this.#bottom] = [top, bottom];
        cursor.x = 0;
        cursor.y = 0;
        break;
      }
      case 's': this.#saved = { ...cursor, pen: { ...this.#pen } }; break;
      case 'u': this.#restore(); break;
      case 'n': if (numbers[0] === 6) this.#answers(`\x1b[${cursor.y + 1};${x + 1}R`); break;
      case 'c': this.#answers('\x1b[?6c'); break;
      default:
    }
  }

  #inRegion() { return this.cursor.y >= this.#top && this.cursor.y <= this.#bottom; }

  #erase(what, x) {
    const from = what === 0 ? this.cursor.y : 0;
    const to = what === 1 ? this.cursor.y : this.lines - 1;
    for (let y = from; y <= to; y += 1) {
      this.changed.add(y);
      for (let at = 0; at < this.columns; at += 1) {
        const kept = y === this.cursor.y && ((what === 0 && at < x) || (what === 1 && at > x));
        if (!kept) this.rows[y][at] = { ...BLANK, back: this.#pen.back };
      }
    }
  }

  #restore() {
    if (!this.#saved) return;
    const { x, y, pen } = this.#saved;
    this.changed.add(this.cursor.y);
    this.cursor = { x: Math.min(x, this.columns - 1), y: Math.min(y, this.lines - 1) };
    this.#pen = { ...pen };
  }

  #reset() {
    this.#pen = { ...BLANK };
    [this.#top, this.#bottom, this.#other, this.#saved] = [0, this.lines - 1, undefined, undefined];
    [this.application, this.cursorShown] = [false, true];
    this.cursor = { x: 0, y: 0 };
    this.rows = Array.from({ length: this.lines }, () => this.#blankRow());
    this.#all();
  }

  #colours(numbers) {
    const pen = this.#pen;
    for (let n = 0; n < numbers.length; n += 1) {
      const what = numbers[n] ?? 0;
      if (what === 0) Object.assign(pen, BLANK);
      else if (what === 1) pen.bold = true;
      else if (what === 22) pen.bold = false;
      else if (what === 4) pen.line = true;
      else if (what === 24) pen.line = false;
      else if (what === 7) pen.swapped = true;
      else if (what === 27) pen.swapped = false;
      else if (what >= 30 && what <= 37) pen.fore = what - 30;
      else if (what >= 40 && what <= 47) pen.back = what - 40;
      else if (what >= 90 && what <= 97) pen.fore = what - 82;
      else if (what >= 100 && what <= 107) pen.back = what - 92;
      else if (what === 39) pen.fore = -1;
      else if (what === 49) pen.back = -1;
      else if (what === 38 || what === 48) {
        const mixed = numbers[n + 1] === 2;
        const colour = mixed ? nearest(...[2, 3, 4].map((k) => numbers[n + k] ?? 0)) : of256(numbers[n + 2] ?? 0);
        if (what === 38) pen.fore = colour;
        else pen.back = colour;
        n += mixed ? 4 : 2;
      }
    }
  }
}
