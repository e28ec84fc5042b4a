# What a step does outside of Postgres: a line when it starts and a line when it has done its work, by the machine's clock, which is
# Postgres' too. The argument is how many seconds it takes.
echo "S $STEPD_RUN_ID $STEPD_STEP_KEY $STEPD_EPOCH $STEPD_ATTEMPT $(date +%s.%N)" >> @DIR@/witness
sleep "$1"
at=$(date +%s.%N)
echo "E $STEPD_RUN_ID $STEPD_STEP_KEY $STEPD_EPOCH $STEPD_ATTEMPT $at" >> @DIR@/witness
# A child that would outlive the step, were it not killed with it.
sleep 300 >/dev/null 2>&1 &
echo "{\"epoch\": $STEPD_EPOCH, \"at\": $at}"
