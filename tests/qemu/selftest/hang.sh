# A guest that does not end is a failure
#: timeout 25
#: notice hangs: it has not ended after 25 s
ok "before it hangs"
sleep 1000
