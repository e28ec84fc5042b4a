// Graphile Worker on Node: 500 jobs fetched at once, completions in batches. Its SQL functions also feed the crate, which has the same schema.
import { Logger, run, runMigrations } from "graphile-worker";
import pg from "pg";
import { handle, main, say, trickle } from "./harness.mjs";

const connectionString = process.env.DATABASE_URL;
const connected = async (work) => {
  const client = new pg.Client(connectionString);
  await client.connect();
  await work(client);
  await client.end();
};

await main({
  prepare: () => runMigrations({ connectionString }),
  fill: (kind, n) =>
    connected((client) =>
      client.query(
        `SELECT count(*) FROM graphile_worker.add_jobs(ARRAY(SELECT json_populate_record(NULL::graphile_worker.job_spec,
           json_build_object('identifier', 'job', 'payload', json_build_object('kind', $1::text, 'key', i::text))) FROM generate_series(1, $2::int) i))`,
        [kind, n],
      ),
    ),
  trickle: (n) =>
    connected((client) =>
      trickle(Number(n), (key) =>
        client
          .query({ name: "add", text: "SELECT id FROM graphile_worker.add_job('job', $1::json)", values: [JSON.stringify({ kind: "stamp", key })] })
          .then(() => undefined),
      ),
    ),
  work: async () => {
    await run({
      connectionString,
      // A line for each job would cost it a good part of its speed.
      logger: new Logger(() => () => {}),
      taskList: { job: (payload) => handle(payload) },
      preset: { worker: { concurrentJobs: 50, maxPoolSize: 10, localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 } },
      noHandleSignals: true,
    });
    say("ready");
  },
});
