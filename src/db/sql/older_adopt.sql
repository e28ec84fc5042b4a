-- Makes the workflow known that stands for documents which a request brings along. Its own definition has no steps: each run is pinned
-- to its document's. A key that a request names is kept for a day. Caller: http::older. Locks: none where it is known already.
INSERT INTO stepd_engine.workflows AS w (name, definition, flow, source)
SELECT $1, $2, '{"unique": {"key": [["(none)"]], "keep": "1 day"}}', 'POST /api/workflow/execute'
WHERE NOT EXISTS (SELECT FROM stepd_engine.workflows k WHERE k.name = $1 AND k.retired_at IS NULL)
ON CONFLICT (name) DO UPDATE SET retired_at = NULL
