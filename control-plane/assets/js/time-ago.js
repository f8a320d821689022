// <time-ago data-style="ago|full|clock|date"><time datetime>…</time></time-ago>: the reader's own zone,
// the exact UTC stays as title; ages count on.
// Plain English dates are written day first.
const lang = document.documentElement.lang.replace(/^en$/, 'en-GB') || 'en-GB';
const formats = {
  full: new Intl.DateTimeFormat(lang, { day: 'numeric', month: 'short', year: 'numeric', hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' }),
  clock: new Intl.DateTimeFormat(lang, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' }),
  date: new Intl.DateTimeFormat(lang, { day: 'numeric', month: 'short', year: 'numeric' }),
};
const ages = new Set();
// The page's clock is the server's: an age starts as rendered and counts on from there.
const units = [[60, 1, 's'], [3600, 60, 'min'], [172800, 3600, 'h'], [Infinity, 86400, 'd']];

function age(seconds) {
  if (seconds < 2) return 'just now';
  const [, size, unit] = units.find(([limit]) => seconds < limit);
  return `${Math.floor(seconds / size)} ${unit} ago`;
}

/** How far the reader's clock is off, in seconds, by the age that the server wrote; nothing if they agree. */
function skew(time) {
  const [, count = 0, unit = 's'] = /^(\d+) (\w+)/.exec(time.textContent.trim()) ?? [];
  const size = units.find(([, , name]) => name === unit)?.[1] ?? 1;
  const off = (Date.now() - Date.parse(time.dateTime)) / 1000 - count * size;
  return off > -2 && off < size + 3 ? 0 : off;
}

class TimeAgo extends HTMLElement {
  connectedCallback() {
    const time = this.querySelector('time');
    if (!time) return;
    if (this.dataset.style === 'ago') {
      this.skew = skew(time);
      ages.add(this);
      return;
    }
    const format = formats[this.dataset.style];
    if (format) time.textContent = format.format(new Date(time.dateTime));
  }

  disconnectedCallback() {
    ages.delete(this);
  }

  tick(now) {
    const time = this.querySelector('time');
    const text = time && age((now - Date.parse(time.dateTime)) / 1000 - this.skew);
    if (text && time.textContent !== text) time.textContent = text;
  }
}

customElements.define('time-ago', TimeAgo);
setInterval(() => {
  const now = Date.now();
  if (!document.hidden) for (const element of ages) element.tick(now);
}, 1000);
