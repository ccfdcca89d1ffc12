// The stream of events: connected while the page is seen, and again after each interruption, from the last news on.
const HIDDEN_FOR = 60_000;
const LONGEST_WAIT = 60_000;

class LiveSource extends EventTarget {
  #url;
  #source = null;
  #names = new Set();
  #last = "";
  #wait = 1_000;
  #timer = 0;
  #forward = (event) => {
    this.#last = event.lastEventId || this.#last;
    this.dispatchEvent(new MessageEvent(event.type, { data: event.data, lastEventId: event.lastEventId }));
  };

  constructor(url) {
    super();
    this.#url = new URL(url, location.href);
    this.#connect();
    document.addEventListener("visibilitychange", this.#seen);
  }

  // htmx asks for it; this source never gives up, so it is never closed for good.
  get readyState() {
    return this.#source?.readyState === EventSource.OPEN ? EventSource.OPEN : EventSource.CONNECTING;
  }

  addEventListener(name, listener, options) {
    super.addEventListener(name, listener, options);
    if (this.#names.has(name)) return;
    this.#names.add(name);
    this.#source?.addEventListener(name, this.#forward);
  }

  close() {
    document.removeEventListener("visibilitychange", this.#seen);
    this.#disconnect();
  }

  #connect() {
    if (this.#last) this.#url.searchParams.set("since", this.#last);
    const source = new EventSource(this.#url);
    this.#source = source;
    for (const name of this.#names) source.addEventListener(name, this.#forward);
    source.onopen = () => {
      this.#wait = 1_000;
      tell(true);
    };
    source.onerror = () => {
      tell(false);
      if (source.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
      this.#disconnect();
      this.#timer = setTimeout(() => this.#connect(), this.#wait);
      this.#wait = Math.min(2 * this.#wait, LONGEST_WAIT);
    };
  }

  #disconnect() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
  }

  // A browser opens few connections to one server: pages that nobody sees give theirs back.
  #seen = () => {
    clearTimeout(this.#timer);
    if (document.hidden) {
      this.#timer = setTimeout(() => this.#disconnect(), HIDDEN_FOR);
    } else if (this.#source === null) {
      this.#connect();
    }
  };
}

function tell(live) {
  const state = document.getElementById("live-state");
  if (!state) return;
  state.textContent = live ? state.dataset.live : state.dataset.lost;
  state.className = live ? "live" : "lost";
}

export function watchEvents() {
  window.htmx.createEventSource = (url) => new LiveSource(url);
}
