// A client of nudge, protocol version 1, for SDK authors to read. It is the client's rules of the
// protocol and nothing else: no user interface, no knowledge of the tables.
//
// The one idea: a nudge carries no data. Whatever happens (launch, connect, a nudge, an own write),
// the answer is the same loop: pull since the cursor, apply the page with its cursor, until
// has_more is false. There is no polling; a device that hears nothing asks nothing.

const SUBPROTOCOL = "nudge.v1";
const BACKOFF_BASE_MS = 500;
const BACKOFF_MAX_MS = 30_000;

// A write is accepted before its change has come round, and its writer is not nudged for it. So the
// pull after a write asks the server to wait, this long at most, if it finds nothing new.
const OWN_WRITE_WAIT_MS = 2000;

/**
 * One device.
 *
 * Events, each a CustomEvent with a detail:
 *   state  {state, code?, behind?}  offline · connecting · waiting · online · stopped
 *   nudge  {id, within_ms}  the server says that there is something new
 *   pulled {why, pages, changes, bytes}  a pull loop ended: the rows are whole, show them
 *   failed {code}           the server refused a frame
 */
export class Client extends EventTarget {
  // What the app gave.
  #url;
  #device;
  #rows;
  #token;

  // The socket.
  #socket = null; // at most one; handlers of an older one do nothing
  #wanted = false; // the app wants to be online
  #attempts = 0; // since the last sign of life, for the backoff
  #redial = null; // the timer of the next attempt
  #notBefore = 0; // the server's hint for the next attempt, on performance.now's clock

  // The pull loop.
  #ready = false; // the server has compared our cursor
  #loop = null; // {id, why, nudge, pages, changes, bytes} of the loop under way
  #next = null; // {why, nudge}: something happened meanwhile; pull once more
  #pause = null; // the timer of a pull that waits for its share of the capacity
  #lastId = 0;

  /**
   * @param {object} options
   * @param {string} options.url  of the socket, ws: or wss:
   * @param {string} options.device  this installation's id
   * @param {import("./rows.js").Rows} options.rows
   * @param {() => Promise<string>} options.token  fetches a token that is valid now
   */
  constructor({ url, device, rows, token }) {
    super();
    this.#url = url;
    this.#device = device;
    this.#rows = rows;
    this.#token = token;
  }

  state = "offline";

  /** Connects and stays connected; also the way back after the server said stop. */
  connect() {
    this.#wanted = true;
    this.networkReturned();
  }

  /** Closes the socket and stays offline. */
  disconnect() {
    this.#wanted = false;
    this.#hangUp();
    this.#set("offline");
  }

  /** The network is back: dial at once, whatever the backoff says. */
  networkReturned() {
    this.#attempts = 0;
    if (this.#wanted && this.state !== "online" && this.state !== "connecting") this.#dial();
  }

  /** The app came to the foreground. */
  foregrounded() {
    this.#pull("foreground");
  }

  /** The app's own write was accepted: pulls it. Resolves when the pull has ended. */
  async wrote() {
    if (this.#ready) await this.#pulled("own write", OWN_WRITE_WAIT_MS); // else the connect that follows pulls
  }

  /** Forgets the rows and pulls everything anew, like an app that was installed again. */
  reinstall() {
    this.#rows.erase();
    this.#loop = null; // its answer belongs to rows that are gone
    this.#pull("reinstall");
  }

  // --- the socket -------------------------------------------------------------------------------

  async #dial() {
    this.#hangUp(); // the old socket goes before a new one is dialled
    this.#set("connecting");
    const socket = (this.#socket = new WebSocket(this.#url, SUBPROTOCOL));
    const current = () => this.#socket === socket;
    socket.onopen = async () => {
      try {
        const token = await this.#token(); // in hello, never in the URL
        if (current()) this.#send({ t: "hello", v: 1, token, device: this.#device, cursor: this.#rows.cursor });
      } catch {
        if (current()) this.#lost();
      }
    };
    socket.onmessage = ({ data }) => {
      if (current()) this.#receive(JSON.parse(data), data);
    };
    socket.onclose = ({ code }) => {
      if (current()) this.#lost(code);
    };
  }

  #hangUp() {
    clearTimeout(this.#redial);
    clearTimeout(this.#pause);
    const old = this.#socket;
    this.#socket = null;
    this.#ready = false;
    this.#loop = this.#next = this.#pause = null;
    this.dispatchEvent(new Event("settled"));
    old?.close();
  }

  // Codes are read by their range, so that new ones need no new client.
  #lost(code) {
    this.#hangUp();
    if (code >= 4500 && code <= 4999) {
      this.#wanted = false;
      this.#set("stopped", { code });
      return;
    }
    // Full jitter: a random share of a pause that doubles. It spreads a herd best.
    const most = Math.min(BACKOFF_MAX_MS, BACKOFF_BASE_MS * 2 ** this.#attempts++);
    const hint = this.#notBefore - performance.now(); // the server knows better
    this.#set("waiting", { code });
    this.#redial = setTimeout(() => this.#dial(), hint > 0 ? hint : Math.random() * most);
  }

  #send(frame) {
    this.#socket.send(JSON.stringify(frame));
  }

  #receive(frame, text) {
    switch (frame.t) {
      case "ready": {
        this.#ready = true;
        const behind = frame.behind || this.#rows.cursor === null || !this.#rows.whole;
        this.#set("online", { behind });
        if (behind) this.#pull("connect");
        return;
      }
      case "nudge":
        this.#attempts = 0;
        this.dispatchEvent(new CustomEvent("nudge", { detail: frame }));
        this.#pullWithin(frame.within_ms, frame.id);
        return;
      case "changes":
        this.#page(frame, text);
        return;
      case "cursor": // a fresh one for a quiet session; in the middle of a loop the page's own counts
        if (!this.#loop) this.#rows.refresh(frame.cursor);
        return;
      case "token_expiring":
        this.#freshToken();
        return;
      case "goaway": // leave in the server's order, so that not all come back at once
        this.#notBefore = performance.now() + frame.after_ms;
        clearTimeout(this.#redial);
        this.#redial = setTimeout(() => this.#dial(), frame.after_ms);
        return;
      case "error":
        this.#refused(frame);
        return;
    }
    // A frame of a later version. Nudges are hints, so ignoring it costs time, never data.
  }

  async #freshToken() {
    const socket = this.#socket;
    const token = await this.#token().catch(() => null); // then the server closes with 4001
    if (token && this.#socket === socket) this.#send({ t: "token", token });
  }

  #refused({ id, code, retry_after_ms: after }) {
    this.dispatchEvent(new CustomEvent("failed", { detail: { code } }));
    if (code === "cursor_foreign" || code === "cursor_malformed") {
      this.reinstall();
      return;
    }
    if (after) this.#notBefore = performance.now() + after;
    if (!this.#loop || id !== this.#loop.id) return;
    const { why, nudge } = this.#loop;
    this.#loop = null;
    if (after) {
      this.#pause ??= setTimeout(() => {
        this.#pause = null;
        this.#pull(why, nudge);
      }, after);
    }
    this.dispatchEvent(new Event("settled"));
  }

  // --- the pull loop ----------------------------------------------------------------------------

  // Many devices may hear at once; each takes a random place in the time that the server allows.
  #pullWithin(ms, nudge) {
    if (!ms) {
      this.#pull("nudge", nudge);
      return;
    }
    this.#pause ??= setTimeout(() => {
      this.#pause = null;
      this.#pull("nudge", nudge);
    }, Math.random() * ms);
  }

  #pull(why, nudge, wait) {
    if (!this.#ready) return; // the connect that follows pulls
    if (this.#loop) {
      this.#next = { why, nudge, ...this.#next, wait: wait ?? this.#next?.wait };
      return;
    }
    this.#loop = { why, nudge, wait, pages: 0, changes: [], bytes: 0 };
    this.#ask();
  }

  #ask() {
    const { nudge, wait } = this.#loop;
    this.#loop.id = ++this.#lastId;
    this.#send({ t: "pull", id: this.#loop.id, cursor: this.#rows.cursor, nudge, wait_ms: wait });
  }

  #page(page, text) {
    const loop = this.#loop;
    if (!loop || page.id !== loop.id) return; // the answer to a loop that was given up
    this.#rows.apply(page);
    this.#send({ t: "ack", cursor: page.cursor }); // saved: nobody needs to push this to us
    loop.pages++;
    loop.bytes += new Blob([text]).size;
    loop.changes.push(...page.changes);
    if (page.has_more) {
      this.#ask();
      return;
    }
    this.#loop = null;
    this.dispatchEvent(new CustomEvent("pulled", { detail: loop }));
    this.dispatchEvent(new Event("settled"));
    const next = this.#next;
    this.#next = null;
    if (next) this.#pull(next.why, next.nudge, next.wait);
  }

  // Pulls, and resolves when no loop is under way any more.
  async #pulled(why, wait) {
    this.#pull(why, undefined, wait);
    while (this.#loop) {
      await new Promise((resolve) => this.addEventListener("settled", resolve, { once: true }));
    }
  }

  #set(state, more) {
    if (this.state === state) return;
    this.state = state;
    this.dispatchEvent(new CustomEvent("state", { detail: { state, ...more } }));
  }
}
