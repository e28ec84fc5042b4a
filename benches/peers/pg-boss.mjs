// pg-boss: batches of 500, four at once, woken by NOTIFY.
import { PgBoss } from "pg-boss";
import { handle, main, say, trickle } from "./harness.mjs";

const started = async (options = {}) => {
  const boss = new PgBoss({ connectionString: process.env.DATABASE_URL, useListenNotify: true, ...options });
  boss.on("error", (error) => console.error(error));
  await boss.start();
  return boss;
};
const client = { supervise: false, schedule: false, migrate: false };

await main({
  prepare: async () => {
    const boss = await started();
    await boss.createQueue("job", { notify: true });
    await boss.stop();
  },
  fill: async (kind, n) => {
    const boss = await started(client);
    for (let i = 0; i < n; i += 10_000) {
      const rows = Array.from({ length: Math.min(10_000, n - i) }, (_, k) => ({ data: { kind, key: String(i + k) } }));
      await boss.insert("job", rows);
    }
    await boss.stop();
  },
  trickle: async (n) => {
    const boss = await started(client);
    await trickle(Number(n), (key) => boss.send("job", { kind: "stamp", key }).then(() => undefined));
    await boss.stop();
  },
  work: async () => {
    const boss = await started();
    const options = { batchSize: 500, localConcurrency: 4, pollingIntervalSeconds: 0.5, burstWhenBatchFull: true };
    await boss.work("job", options, (jobs) => Promise.all(jobs.map((job) => handle(job.data))));
    say("ready");
  },
});
