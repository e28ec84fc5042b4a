# Fails the first time that this step of this run comes here.
mkdir "@DIR@/been-here/$STEPD_RUN_ID" 2>/dev/null && exit 64
exit 0
