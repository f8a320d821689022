fleet-title = Fleet
fleet-add = Add a node
fleet-add-button = Make the join command
fleet-add-how = Install the package ez-node-agent on the Proxmox VE host and run its setup first. The node dials out to us; no port has to be opened.
fleet-empty-title = No nodes yet
fleet-empty-text = Add a Proxmox VE host: one package, one line to paste.
fleet-up = { $n ->
    [one] { $n } node up
   *[other] { $n } nodes up
}
fleet-away = { $n ->
    [one] { $n } away since { $since }
   *[other] { $n } away, the longest since { $since }
}
fleet-waiting = { $n ->
    [one] { $n } order waiting since { $oldest }
   *[other] { $n } orders waiting, the oldest { $oldest }
}
fleet-waiting-none = no order is waiting
fleet-room-first = room for { $n } more { $plan }
fleet-room-more = or { $n } { $plan }
fleet-image-ready = { $total ->
    [one] { $name } ready on { $ready } of 1 node
   *[other] { $name } ready on { $ready } of { $total } nodes
}
fleet-attention = Needs a person
fleet-node = Node
fleet-state = State
fleet-servers = Servers
fleet-cpu = vCPU
fleet-memory = Memory
fleet-disk = Disk
fleet-versions = Versions
fleet-versions-value = agent { $agent } · PVE { $pve }
fleet-warnings = { $n ->
    [one] { $n } warning
   *[other] { $n } warnings
}
fleet-bars = Upper bar: sold. Lower bar: really in use, as the node reports it.
fleet-sold-of = { $what } sold
fleet-used-of = { $what } in use
fleet-sold-used = { $sold } sold, { $used } in use, of { $total }
fleet-presence-online = Online
fleet-presence-late = Late
fleet-presence-offline = Offline
fleet-presence-never = Never seen
fleet-node-pending = Not joined
fleet-node-cordoned = Cordoned
fleet-node-quarantined = Quarantined
fleet-node-revoked = Revoked
fleet-alarm-node_offline = Node offline
fleet-alarm-order_needs_operator = Order needs an operator
fleet-alarm-token_reused = Join token used again
fleet-alarm-clock_skew = Clock is off
fleet-alarm-generation_conflict = Conflicting order
fleet-alarm-node_quarantined = Node quarantined
fleet-alarm-identity_copied = Two agents with one identity
fleet-alarm-trust_behind = Node does not know our key
fleet-alarm-vmid_overlap = VMID ranges overlap
fleet-alarm-key_known = Key used twice
fleet-alarm-order_stuck = Order stuck
fleet-alarm-order_refused = Order refused
fleet-alarm-foreign_event = Report about a foreign order
fleet-alarm-stray_server = Server where it should not be
fleet-alarm-server_missing = Server is not on its host
fleet-alarm-host_warning = The host warns
fleet-alarm-firewall_inert = Anti-spoofing does nothing
fleet-alarm-order_revived = Order came back to life
fleet-alarm-paid_twice = Paid twice
fleet-alarm-exempt_uncharged = Runs for nothing
fleet-alarm-stripe_cancels_unpaid = Stripe cancels unpaid subscriptions
fleet-alarm-stripe_cancels_disputed = Stripe cancels disputed subscriptions
fleet-alarm-refund_failed = Refund did not arrive
fleet-alarm-credit_not_returned = Credit not given back
fleet-alarm-paid_after_end = Paid after its end
fleet-alarm-server_not_ended = Server runs unpaid
fleet-alarm-standing_unread = Payments cannot be read
fleet-alarm-unpaid_unread = What is owed cannot be read
fleet-alarm-ending_late = Server cannot be ended
fleet-alarm-may_run_twice = Server may run twice
fleet-alarm-suspension_late = Suspension not carried out
fleet-alarm-suspended_runs = Suspended server is started again and again
fleet-alarm-storage_fills = Storage fills up
fleet-alarm-image_failed = Image not built
fleet-alarm-machine_changed = Another machine
fleet-alarm-not_adopted = Server not taken over
fleet-alarm-payment_disputed = Payment disputed
fleet-alarm-fraud_warning = Payment called fraud
fleet-alarm-traffic_not_billed = Traffic not billed
fleet-alarm-traffic_unpaid = Traffic not paid
fleet-alarm-invoice_not_final = Invoice cannot be made
fleet-alarm-price_unknown = Unknown price at Stripe
fleet-alarm-unpaid_unseen = Unpaid, and not known what
fleet-alarm-subscription_not_one_server = Subscription not for one server
fleet-alarm-unknown_subscription_status = Unknown state of a subscription
fleet-alarm-payment_news_parked = News of Stripe not taken in
fleet-alarm-webhook_set_aside = Webhook not for us, or unreadable
fleet-alarm-stripe_events_behind = Stripe's list of events not read
fleet-alarm-payment_pages_unread = Payment pages not read
fleet-alarm-resize_late = Resize not carried out
fleet-alarm-plan_not_followed = Paid plan not carried out
fleet-alarm-close = Done with it
fleet-alarm-other = Alarm
fleet-severity-critical = critical
fleet-severity-warning = warning
fleet-times = { $n } times
fleet-closed = over since
fleet-capacity = Capacity
fleet-about = About the node
fleet-fact-agent = Agent
fleet-fact-pve = Proxmox VE
fleet-fact-cluster = Cluster
fleet-fact-link = Link
fleet-fact-vmids = VMIDs
fleet-fact-pool = Pool
fleet-fact-epoch = Epoch
fleet-fact-prefixes = Address prefixes
fleet-fact-images = Images
fleet-fullest = fullest { $share }
fleet-storages = Storages
fleet-storage-use = { $used } of { $total }
fleet-pool-data = Data
fleet-pool-metadata = Metadata
fleet-pool = Thin pool { $name }
fleet-fact-builds = Image orders
fleet-vmid = VMID
fleet-owner = Customer
fleet-no-servers = No servers are on this node.
fleet-certificates = Certificates
fleet-no-certificates = It has no certificate yet.
fleet-serial = Serial number
fleet-until = Valid until
fleet-certificate-valid = Valid
fleet-certificate-replaced = Replaced
fleet-certificate-expired = Expired
fleet-certificate-revoked = Revoked
fleet-cordon = Cordon
fleet-cordon-question = Put no new servers on this node? What is there keeps running and can still be changed.
fleet-uncordon = Allow new servers
fleet-new-token = New join token
fleet-revoke = Revoke this node
fleet-revoke-text = Its certificates become void at once and it takes no more orders from us. Its servers keep running, and nobody can change them until the node joins again with a new token.
fleet-revoke-button = Revoke the node
fleet-node-name = Name of the node
fleet-node-name-hint = As Proxmox VE calls it, such as fsn-4.
fleet-join-title = Join { $name }
fleet-join-text = Paste this on the host as root. The line holds a secret that works once.
fleet-join-what = join command
fleet-join-until = It works until
fleet-join-watch = Watch it appear in the fleet
fleet-alarms-title = Alarms
fleet-alarms-lead = What a person has to look at. An alarm ends when its cause ends, or when you are done with it.
fleet-alarms-none-title = Nothing needs you
fleet-alarms-none-text = Alarms appear here by themselves.
fleet-alarms-closed = Over
fleet-mail-offline-subject = Node { $node } is offline
fleet-mail-offline-text = The agent of node { $node } has been silent for more than 90 seconds. Its servers keep running; nothing can be changed on them until it is back.
fleet-mail-foot = You get this mail because you operate this installation.
