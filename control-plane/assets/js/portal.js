// Custom elements of the portal. Every page works without them: an element that is not upgraded shows
// its content as plain text, links and forms.
import './live-region.js';
import './copy-text.js';
import './confirm-dialog.js';
import './time-ago.js';
import './theme-switch.js';
import './order-summary.js';
