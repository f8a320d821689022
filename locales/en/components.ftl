copy = Copy
copy-done = Copied
copy-what = Copy: { $what }
copy-what-ssh = SSH command
confirm-no = Keep it as it is
pages-label = Pages
pages-newer = Newer
pages-older = Older
live-noscript = This page reloads every 5 seconds.

step-state-done = done
step-state-now = in progress
step-state-waiting = not yet
step-state-failed = failed
step-state-skipped = will not happen

step-paid = Paid
step-paid-todo = Payment
step-placed = Place found
step-placed-todo = Find a place
step-signed = Order signed
step-signed-todo = Sign the order
step-accepted = Accepted by the node
step-accepted-todo = Have the node accept it
step-clone = Disk cloned
step-clone-todo = Clone the disk
step-configure = Configured
step-configure-todo = Configure CPU, memory and network
step-resize = Disk grown
step-resize-todo = Grow the disk
step-cloud_init = First boot prepared
step-cloud_init-todo = Prepare the first boot
step-firewall = Firewall set
step-firewall-todo = Set the firewall
step-start = Started
step-start-todo = Start
step-start_on_boot = Set to start with its host
step-start_on_boot-todo = Set it to start with its host
step-await_usable = First boot finished
step-await_usable-todo = First boot
step-started_unconfirmed = Started; the guest has not confirmed its first boot
step-started_unconfirmed-todo = First boot
step-shutdown = Shut down
step-shutdown-todo = Shut down
step-reboot = Rebooted
step-reboot-todo = Reboot
step-stop = Stopped
step-stop-todo = Stop
step-reset = Reset
step-reset-todo = Reset
step-retire = Taken out of service
step-retire-todo = Take out of service
step-purge = Removed
step-purge-todo = Remove
step-note_power = Noted whether it runs
step-note_power-todo = Note whether it runs
step-destroy = Old disk thrown away
step-destroy-todo = Throw the old disk away
step-snapshot = Snapshot taken
step-snapshot-todo = Take the snapshot
step-roll_back = Rolled back
step-roll_back-todo = Roll back
step-drop_snapshot = Snapshot deleted
step-drop_snapshot-todo = Delete the snapshot
step-backup = Backup made
step-backup-todo = Make the backup
step-find_backups = Backups found
step-find_backups-todo = Find the backups
step-may_destroy = Nothing keeps it from being removed
step-may_destroy-todo = Look whether it may be removed
step-prune_backups = Oldest backups removed
step-prune_backups-todo = Remove the oldest backups
step-restore = Restored
step-restore-todo = Restore
step-remove_backup = Backup removed
step-remove_backup-todo = Remove the backup
step-set_password = Password set
step-set_password-todo = Set the password
step-attach_rescue = Rescue system put in
step-attach_rescue-todo = Put the rescue system in
step-detach_rescue = Rescue system taken out
step-detach_rescue-todo = Take the rescue system out
step-queue = { $position ->
    [1] Next in the queue of this host
    [2] Second in the queue of this host
    [3] Third in the queue of this host
   *[other] Number { $position } in the queue of this host
}
step-queue-about = { $position ->
    [1] Next in the queue of this host, in about { $time }
    [2] Second in the queue of this host, in about { $time }
    [3] Third in the queue of this host, in about { $time }
   *[other] Number { $position } in the queue of this host, in about { $time }
}
step-other = Further work done
step-other-todo = Further work
