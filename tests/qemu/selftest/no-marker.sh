# The exit status of a success alone is none
#: notice the console lacks the line 'guest ended
ok "before the end"
end-guest 16
