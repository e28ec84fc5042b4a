-- Brings the older systems' tables up to date, by $1 notes at the most. Caller: services::tables.
SELECT stepd_engine.catch_up($1) AS done
