orders-mail-foot = EZ Solutions. You get this because you ordered a server with us.
orders-mail-foot-operator = EZ Solutions. You get this because you are an operator of this installation.

orders-mail-paid-subject = Payment received for { $server }
orders-mail-paid-text = We have received { $amount } for your server { $server } (plan { $plan }). It is being built now; you can watch it here:
orders-mail-free-subject = Your order of { $server }
orders-mail-free-text = Thank you for ordering { $server } (plan { $plan }). Nothing was charged today. It is being built now; you can watch it here:
orders-mail-paid-next = You get another mail when it is ready. The invoice is on the page Billing.

orders-mail-ready-subject = { $server } is ready
orders-mail-ready-text = Your server { $server } is running. Log in with:
orders-mail-ready-addresses = Addresses:
orders-mail-ready-fingerprints = When you connect first, compare the host key's fingerprint:
orders-mail-ready-page = The server's page:

orders-mail-attention-subject = Your order { $server } needs our help
orders-mail-attention-text = Your payment of { $amount } for { $server } has arrived, but building the server has stopped. One of us is looking at it. You are not charged again and there is nothing to do.
orders-mail-attention-refund = If it cannot be built within 24 hours, you get the full amount back. How it stands:

orders-mail-refunded-subject = { $amount } for { $server } is on its way back
orders-mail-refunded-text = Your server { $server } could not be delivered. The full amount of { $amount } was returned to the card you paid with; banks need up to ten days to show it. We are sorry.
orders-mail-refunded-both = Your server { $server } could not be delivered. All of it was given back: { $amount } to the card you paid with, where banks need up to ten days to show it, and { $credit } as credit, as you had paid it. We are sorry.
orders-mail-refunded-credit = Your server { $server } could not be delivered. The { $credit } of credit that had paid for it is yours again; the next invoices use it up. We are sorry.
orders-mail-refunded-page = The order:

orders-mail-by-bank-subject = Your bank has given { $amount } for { $server } back to you
orders-mail-by-bank-text = Your server { $server } was not delivered. You disputed its payment, and your bank has given { $amount } back to you. Nothing more comes from us, and you are not charged again.
orders-mail-by-bank-credit = The { $credit } of credit that had paid the rest is yours again; the next invoices use it up.

orders-mail-operator-subject = Order { $reference } needs an operator ({ $reason })
orders-mail-operator-text = Order { $reference } in { $location } waits for a decision: { $reason }. Everything stays reserved; the money goes back by itself 24 hours after the order stopped. Retry, re-place, abandon or refund:
