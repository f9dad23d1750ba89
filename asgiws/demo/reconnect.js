"use strict";
/* A WebSocket that comes back, with the last position that it has seen, so that the server sends what it missed.

   After a close it waits a random part of a growing time, or as long as the server asks: a Close 1012 or 1013 with the
   reason "retry-after=7" means 7 seconds. Texts of a topic with history arrive as {"at": position, "data": text}. */
class ReconnectingSocket {
  /* `url` is called with the last position, "" at first. */
  constructor(url, {protocols = [], opened = () => {}, received = () => {}, lost = () => {}} = {}) {
    Object.assign(this, {url, protocols, opened, received, lost, since: "", failures: 0});
    this.connect();
  }
  connect() {
    clearTimeout(this.timer);
    const url = new URL(this.url(this.since), location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = this.socket = new WebSocket(url, this.protocols);
    socket.onopen = () => { this.openSince = performance.now(); this.opened(socket); };
    socket.onmessage = ({data}) => {
      if (typeof data === "string" && data.startsWith('{"at":"')) ({at: this.since, data} = JSON.parse(data));
      this.received(data);
    };
    socket.onclose = ({code, reason}) => {
      this.failures = performance.now() - this.openSince > 10_000 ? 1 : this.failures + 1;
      this.openSince = Infinity;
      const asked = [1012, 1013].includes(code) && reason.match(/retry-after=(\d{1,4})/)?.[1];
      const most = asked ? asked * 1250 : Math.min(15_000, 500 * 2 ** (this.failures - 1));
      const least = asked ? asked * 1000 : most / 2;
      const delay = least + Math.random() * (most - least);
      this.timer = setTimeout(() => this.connect(), delay);
      this.lost({code, reason, delay});
    };
  }
  get open() { return this.socket.readyState === WebSocket.OPEN; }
  send(data) { if (this.open) this.socket.send(data); }
}
