-- How a delivery was answered that has come before. Caller: the HTTP server. Index: deliveries_pkey.
SELECT d.answer AS "answer!" FROM stepd_engine.deliveries d WHERE d.hook = $1 AND d.delivery = $2 AND d.answer IS NOT NULL
