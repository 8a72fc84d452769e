/** The network of this tab, with a switch: while it is cut, sockets end as with a dead line and calls fail. */

export class Network {
  #sockets = new Set();
  isDown = false;

  constructor() {
    const network = this;
    /** What the client library needs of a WebSocket. */
    this.WebSocket = class {
      #socket;
      onmessage = null;
      onerror = null;
      onclose = null;

      constructor(url, protocols) {
        if (network.isDown) {
          setTimeout(() => this.onclose?.({ code: 1006 }));
          return;
        }
        const socket = new WebSocket(url, protocols);
        this.#socket = socket;
        network.#sockets.add(this);
        socket.onmessage = (event) => this.onmessage?.(event);
        socket.onerror = (event) => this.onerror?.(event);
        socket.onclose = (event) => {
          network.#sockets.delete(this);
          this.onclose?.(event);
        };
      }

      send(data) {
        this.#socket.send(data);
      }

      close() {
        network.#sockets.delete(this);
        this.#socket?.close();
      }

      cut() {
        this.#socket.onmessage = this.#socket.onclose = null;
        this.close();
        this.onclose?.({ code: 1006 });
      }
    };
    this.fetch = (...request) => (this.isDown ? Promise.reject(new TypeError("no network")) : fetch(...request));
  }

  cut() {
    this.isDown = true;
    for (const socket of [...this.#sockets]) socket.cut();
  }

  restore() {
    this.isDown = false;
  }
}
