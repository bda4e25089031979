# A failed test counts, whatever the scenario's exit status
#: notice FAILED  it did not work
ok "another one"
echo "FAILED  it did not work"
