// Jobs for stepd: plain INSERTs, by the client that all peers use.
import pg from "pg";
import { main, trickle } from "./harness.mjs";

await main({
  trickle: async (n) => {
    const client = new pg.Client(process.env.DATABASE_URL);
    await client.connect();
    await trickle(Number(n), async () => {
      const { rows } = await client.query({ name: "add", text: "INSERT INTO stepd.jobs (workflow) VALUES ('code_1') RETURNING id" });
      return rows[0].id;
    });
    await client.end();
  },
});
