// What a key means: as an X keysym for a screen, as bytes for a terminal.

// Names of keys that are no character, and their keysyms.
const NAMED = {
  Backspace: 0xff08, Tab: 0xff09, Enter: 0xff0d, Escape: 0xff1b, Insert: 0xff63, Delete: 0xffff,
  Home: 0xff50, End: 0xff57, PageUp: 0xff55, PageDown: 0xff56,
  ArrowLeft: 0xff51, ArrowUp: 0xff52, ArrowRight: 0xff53, ArrowDown: 0xff54,
  CapsLock: 0xffe5, NumLock: 0xff7f, ScrollLock: 0xff14, Pause: 0xff13, PrintScreen: 0xff61, ContextMenu: 0xff67,
};
for (let n = 1; n <= 12; n += 1) NAMED[`F${n}`] = 0xffbd + n;

export const SHIFT = 0xffe1;
export const CONTROL = 0xffe3;
export const ALT = 0xffe9;
export const DELETE = NAMED.Delete;

const MODIFIERS = {
  ShiftLeft: SHIFT, ShiftRight: 0xffe2, ControlLeft: CONTROL, ControlRight: 0xffe4, AltLeft: ALT,
  AltRight: 0xffea, MetaLeft: 0xffeb, MetaRight: 0xffec,
};

// The keysym of a character: Latin-1 is itself, everything else its number with a mark.
const symbol = (character) => {
  const code = character.codePointAt(0);
  return code < 0x100 ? code : 0x01000000 + code;
};

// The keysym of a key event, or nothing for a key that means nothing here.
export const keysym = (event) => {
  if (MODIFIERS[event.code]) return event.key === 'AltGraph' ? 0xfe03 : MODIFIERS[event.code];
  if (NAMED[event.key]) return NAMED[event.key];
  return [...event.key].length === 1 ? symbol(event.key) : undefined;
};

// Characters that a person types with Shift on a plain keyboard.
const SHIFTED = '~!@#$%^&*()_+{}|:"<>?';

// A text as keys: pairs of a keysym and whether Shift is held.
export const typed = function* typed(text) {
  for (const character of text.replace(/\r\n?/g, '\n')) {
    if (character === '\n') yield [NAMED.Enter, false];
    else if (character === '\t') yield [NAMED.Tab, false];
    else if (character >= ' ') yield [symbol(character), SHIFTED.includes(character) || /[A-Z]/.test(character)];
  }
};

const ENDS = { Home: 'H', End: 'F', ArrowUp: 'A', ArrowDown: 'B', ArrowRight: 'C', ArrowLeft: 'D' };
const TILDES = {
  Insert: 2, Delete: 3, PageUp: 5, PageDown: 6, F5: 15, F6: 17, F7: 18, F8: 19, F9: 20, F10: 21, F11: 23, F12: 24,
};
const SINGLE = { Enter: '\r', Backspace: '\x7f', Tab: '\t', Escape: '\x1b', F1: '\x1bOP', F2: '\x1bOQ', F3: '\x1bOR', F4: '\x1bOS' };

// What a terminal sends for a key event; `application` is its mode of the arrow keys.
export const sequence = (event, application) => {
  if (event.key === 'Tab' && event.shiftKey) return '\x1b[Z';
  if (SINGLE[event.key]) return SINGLE[event.key];
  if (ENDS[event.key]) return `\x1b${application ? 'O' : '['}${ENDS[event.key]}`;
  if (TILDES[event.key]) return `\x1b[${TILDES[event.key]}~`;
  if ([...event.key].length !== 1 || event.metaKey) return undefined;
  const graph = event.getModifierState('AltGraph');
  if (event.ctrlKey && !graph) {
    const code = event.key.toUpperCase().codePointAt(0);
    if (event.key === ' ') return '\0';
    return code >= 0x40 && code < 0x60 ? String.fromCharCode(code & 0x1f) : undefined;
  }
  return event.altKey && !graph ? `\x1b${event.key}` : event.key;
};
