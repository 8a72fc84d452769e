// Socket.IO 4 with pg, after Socket.IO's documentation: authentication in a middleware, rooms, a namespace for events.
// Settings of its performance tuning page: WebSocket only, bufferutil, no kept initial request, no compression.
"use strict";
const crypto = require("node:crypto");
const http = require("node:http");
const { Server } = require("socket.io");
const { Pool } = require("pg");

const secret = process.env.SUPABASE_JWT_SECRET;
const pool = new Pool({ max: 16 });
const server = http.createServer();
const io = new Server(server, { transports: ["websocket"], serveClient: false, perMessageDeflate: false });
io.engine.on("connection", (rawSocket) => {
  rawSocket.request = null;
});

function verify(token) {
  const [head, body, signature] = token.split(".");
  const expected = crypto.createHmac("sha256", secret).update(`${head}.${body}`).digest();
  const given = Buffer.from(signature, "base64url");
  if (given.length !== expected.length || !crypto.timingSafeEqual(given, expected)) throw new Error("signature");
  const claims = JSON.parse(Buffer.from(body, "base64url").toString());
  if (claims.aud !== "authenticated" || claims.exp < Date.now() / 1000) throw new Error("claims");
  return claims;
}

const rooms = {
  name: "rooms",
  text: "SELECT conversation_id FROM conversation_participants WHERE user_id = $1",
};
const insert = {
  name: "insert",
  text: "INSERT INTO messages (conversation_id, sender_id, text) VALUES ($1, $2, $3) RETURNING id, created_at",
};

io.use((socket, next) => {
  try {
    socket.data.userId = verify(socket.handshake.auth.token).sub;
    next();
  } catch {
    next(new Error("AUTH_FAILED"));
  }
});

io.on("connection", async (socket) => {
  const userId = socket.data.userId;
  socket.on("message.send", async (message) => {
    const { conversationId, text, clientMessageId } = message;
    if (!socket.rooms.has(conversationId)) {
      socket.emit("error", { code: "NOT_PARTICIPANT" });
      return;
    }
    const { rows } = await pool.query({ ...insert, values: [conversationId, userId, text] });
    const stored = {
      conversationId,
      messageId: rows[0].id,
      senderId: userId,
      text,
      timestamp: rows[0].created_at.toISOString(),
      status: "sent",
      clientMessageId,
    };
    socket.emit("message.ack", stored);
    socket.to(conversationId).emit("message.new", stored);
  });
  const { rows } = await pool.query({ ...rooms_of(userId) });
  const conversationIds = rows.map((row) => row.conversation_id);
  socket.join(conversationIds);
  socket.emit("connected", {
    message: "Connected to BountyExpo messaging",
    userId,
    conversationIds,
    connectionId: socket.id,
  });
});

function rooms_of(userId) {
  return { ...rooms, values: [userId] };
}

const events = io.of("/events");
events.on("connection", (socket) => {
  socket.emit("connection", { message: "Connected to BountyExpo realtime events" });
  socket.on("publish", ({ id, status }) => {
    events.emit("bounty.status", { id, status, timestamp: new Date().toISOString() });
  });
});

server.listen({ port: Number(process.env.PORT), host: "127.0.0.1", backlog: 4096 });
