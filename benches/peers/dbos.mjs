// DBOS: one queue, polled every 10 ms.
import { DBOS, DBOSClient } from "@dbos-inc/dbos-sdk";
import { began, ended, handle, main, many, say, trickle } from "./harness.mjs";

const systemDatabaseUrl = process.env.DATABASE_URL;
// Each worker is an executor of its own; all run the same version of the application.
const config = { name: "bench", systemDatabaseUrl, systemDatabasePoolSize: 20, logLevel: "error", applicationVersion: "1", executorID: `executor-${process.pid}` };

DBOS.registerWorkflow(handle, { name: "job" });
DBOS.registerWorkflow(
  async () => {
    began();
    for (let i = 0; i < 10; i++) await DBOS.runStep(async () => 1, { name: `s${i}` });
    ended();
  },
  { name: "ten" },
);

const connected = async (work) => {
  const client = await DBOSClient.create({ systemDatabaseUrl, applicationName: "bench" });
  const add = (kind, key) => client.enqueue({ workflowName: kind === "ten" ? "ten" : "job", queueName: "job", appVersion: "1" }, { kind, key });
  await work(add);
  await client.destroy();
};

await main({
  prepare: async () => {
    DBOS.setConfig(config);
    await DBOS.launch();
    await DBOS.registerQueue("job", { minPollingIntervalMs: 10, workerConcurrency: 100 });
    await DBOS.shutdown();
  },
  fill: (kind, n) => connected((add) => many(Number(n), 8, (i) => add(kind, String(i)))),
  trickle: (n) => connected((add) => trickle(Number(n), (key) => add("stamp", key).then(() => undefined))),
  work: async () => {
    DBOS.setConfig(config);
    await DBOS.launch();
    say("ready");
  },
});
