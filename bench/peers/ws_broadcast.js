// Node's bare ws, after its documentation's "Server broadcast". Compression off, bufferutil there.
"use strict";
const http = require("node:http");
const { WebSocketServer, WebSocket } = require("ws");

const server = http.createServer();
const wss = new WebSocketServer({ server, perMessageDeflate: false });

wss.on("connection", (ws) => {
  ws.on("error", () => {});
  ws.send(JSON.stringify({ type: "connection", message: "Connected to BountyExpo realtime events" }));
  ws.on("message", (data) => {
    const { id, status } = JSON.parse(data);
    const frame = Buffer.from(JSON.stringify({ type: "bounty.status", id, status, timestamp: new Date().toISOString() }));
    wss.clients.forEach((client) => {
      if (client.readyState === WebSocket.OPEN) {
        client.send(frame, { binary: false });
      }
    });
  });
});

server.listen({ port: Number(process.env.PORT), host: "127.0.0.1", backlog: 4096 });
