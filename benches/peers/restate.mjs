// Restate: its own server and store, handlers in this process behind HTTP/2; jobs are one-way calls through the ingress.
import * as restate from "@restatedev/restate-sdk";
import { spawn } from "node:child_process";
import http from "node:http";
import http2 from "node:http2";
import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";
import { began, ended, handle, main, many, say, trickle } from "./harness.mjs";

const [ingress, admin, node, endpoint] = process.env.PEER_PORTS.split(",");
const agent = new http.Agent({ keepAlive: true, maxSockets: 100 });

const post = (port, path, body) =>
  new Promise((resolve, reject) => {
    const text = JSON.stringify(body);
    const headers = { "content-type": "application/json", "content-length": Buffer.byteLength(text) };
    const request = http.request({ host: "127.0.0.1", port, path, method: "POST", agent, headers }, (answer) => {
      answer.resume();
      answer.on("end", () => (answer.statusCode < 300 ? resolve() : reject(new Error(`${path}: ${answer.statusCode}`))));
    });
    request.on("error", reject);
    request.end(text);
  });

const add = (kind, key) => post(ingress, kind === "ten" ? "/bench/ten/send" : "/bench/job/send", { kind, key });

const bench = restate.service({
  name: "bench",
  handlers: {
    job: (_, payload) => handle(payload),
    ten: async (ctx) => {
      began();
      for (let i = 0; i < 10; i++) await ctx.run(`s${i}`, () => 1);
      ended();
    },
  },
});

await main({
  // The server, until it is told to stop.
  serve: async (folder) => {
    const binary = createRequire(import.meta.url).resolve("@restatedev/restate-server-linux-x64/bin/restate-server");
    const settings = {
      RESTATE_BASE_DIR: folder,
      RESTATE_NODE_NAME: "bench",
      RESTATE_LISTEN_MODE: "tcp",
      RESTATE_BIND_IP: "127.0.0.1",
      RESTATE_BIND_PORT: node,
      RESTATE_INGRESS__BIND_PORT: ingress,
      RESTATE_ADMIN__BIND_PORT: admin,
      RESTATE_DISABLE_TELEMETRY: "true",
      RESTATE_LOG_FILTER: "error",
      DO_NOT_TRACK: "1",
    };
    const server = spawn(binary, ["--no-logo"], { env: { ...process.env, ...settings }, stdio: ["ignore", "inherit", "inherit"] });
    process.on("SIGTERM", () => server.kill("SIGTERM"));
    server.on("exit", (code) => process.exit(code ?? 1));
    for (;;) {
      const up = await fetch(`http://127.0.0.1:${admin}/health`).then((a) => a.ok, () => false);
      const open = await fetch(`http://127.0.0.1:${ingress}/restate/health`).then((a) => a.ok, () => false);
      if (up && open) break;
      await sleep(20);
    }
    say("server", server.pid);
    say("ready");
  },
  prepare: () => post(admin, "/deployments", { uri: `http://127.0.0.1:${endpoint}`, force: true }),
  fill: (kind, n) => many(Number(n), 64, (i) => add(kind, String(i))),
  trickle: (n) => trickle(Number(n), (key) => add("stamp", key)),
  // A second worker waits until the address is free.
  work: async () => {
    // A line for each job would cost it a good part of its speed.
    const handlers = restate.endpoint().bind(bench).setLogger(() => {});
    const server = http2.createServer(handlers.http2Handler());
    const listen = () => server.listen(Number(endpoint), "127.0.0.1");
    server.on("error", (error) => (error.code === "EADDRINUSE" ? setTimeout(listen, 5) : process.exit(1)));
    listen();
    say("ready");
  },
});
agent.destroy();
