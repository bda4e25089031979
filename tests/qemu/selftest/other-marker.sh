# The marker line of another run is none
#: notice the console lacks the line 'guest ended
ok "before the end"
echo 'guest ended 0123456789abcdef status=0' >/dev/console
end-guest 16
