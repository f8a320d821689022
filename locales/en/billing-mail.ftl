billing-mail-foot = EZ Solutions. You get this because you pay for a server with us.

billing-mail-receipt-subject = Payment of { $amount } received
billing-mail-receipt-text = We have received { $amount } for { $server }. Thank you.
billing-mail-receipt-page = The invoice { $number }:

billing-mail-failed-subject = The payment for { $server } did not work
billing-mail-failed-text = { $amount } for { $server } could not be charged to your card. Stripe tries again by itself; you can also pay now, with the same or another card.
billing-mail-failed-late-subject = The payment for { $server } has not come
billing-mail-failed-late = { $amount } for { $server } is due and has not come. It is not charged by itself: please pay it.
billing-mail-failed-until = The server runs on until { $on }. If it is unpaid then, it is switched off until it is paid; nothing on it is lost.
billing-mail-failed-paused = The server is off and starts again as soon as it is paid.
billing-mail-failed-apart = Nothing is switched off because of this bill. It stays open until it is paid.
billing-mail-failed-page = Pay here:

billing-mail-needs-you-subject = Your bank wants you to confirm the payment for { $server }
billing-mail-needs-you-text = Your bank lets us charge { $amount } for { $server } only after you have confirmed it. That takes a minute.
billing-mail-needs-you-page = Confirm it here:

billing-mail-card-subject = Your card ending in { $last4 } expires
billing-mail-card-text = The next charge for { $server } is on { $on }. By then your card ending in { $last4 } will have expired. Please name another one, so that the server runs on.
billing-mail-card-page = Under "Payment methods" here:

billing-mail-address-subject = Please complete your address for { $server }
billing-mail-address-text = The invoice for { $server } could not be made, because your billing address is not complete enough to work out the taxes. Nothing was charged yet. Please complete the address, country and postal code at least; after that the invoice is made and charged as usual.
billing-mail-address-page = Under "Payment methods" here:

billing-mail-renewal-subject = { $server } renews soon
billing-mail-renewal-text = On { $on } we charge { $amount } for { $server }. There is nothing to do. If you do not need the server any longer, cancel it before.
billing-mail-renewal-about = On { $on } we charge about { $amount } for { $server }: that is its list price, from which discounts and credit are taken; traffic and taxes come on top where they apply. There is nothing to do. If you do not need the server any longer, cancel it before.
billing-mail-renewal-page = What you pay, and when:

billing-mail-suspended-subject = { $server } was switched off
billing-mail-suspended-text = { $server } was switched off. Its disk, its addresses and its backups are kept.
billing-mail-suspended-page = How it stands, and where to pay:

billing-mail-why-unpaid = An invoice for it is unpaid. It starts again by itself as soon as it is paid.
billing-mail-why-disputed = Your bank takes a payment for it back. If you did not mean that, tell your bank; the server starts again when the matter is settled for us.
billing-mail-why-paused = Its subscription is paused. It starts again when the subscription goes on.

billing-mail-restored-subject = { $server } is back
billing-mail-restored-text = { $server } is being started again. Nothing on it was changed.
billing-mail-restored-until = It is paid until { $on } and then ends: its subscription has ended, so nothing renews it. If you need a server after that, order a new one and move what is on this one before.
billing-mail-restored-page = How it stands:

billing-mail-deletion-subject = { $server } will be deleted on { $on }
billing-mail-deletion-text = { $server } has been unpaid since { $since }. On { $on } its service ends, and three days later its disk is deleted for good. A payment before that brings it back with everything on it.
billing-mail-deletion-page = Pay here:

billing-mail-ends-subject = { $server } ends on { $on }
billing-mail-ends-text = You cancelled { $server }. It runs until { $on }, which is paid for; then it is switched off, and three days later its disk is deleted for good. It is not renewed. Only traffic that was used already may still be charged.
billing-mail-ends-page = You can take that back until then:

billing-mail-lapses-subject = { $server } ends on { $on } and is not renewed
billing-mail-lapses-text = { $server } is paid until { $on }. Its subscription has ended before, so nothing renews it: on { $on } it is switched off, and three days later its disk is deleted for good. If you need a server after that, order a new one and move what is on this one before.
billing-mail-lapses-page = Order a server here:

billing-mail-refund-subject = { $amount } is on its way back to you
billing-mail-refund-text = We have sent { $amount } for { $server } back to the card you paid with. Banks need up to ten days to show it.

billing-mail-plan-changed-subject = { $server }: the plan is changed
billing-mail-plan-changed-text = Your server has { $plan } now.
billing-mail-plan-changed-price = It costs { $price } a period from now on.
billing-mail-plan-changed-restart = More memory and CPUs are there with the next restart. Restart the server on its page when that suits you.
billing-mail-plan-changed-page = The server:

billing-mail-plan-waits-subject = { $server }: the change to { $plan } waits for your payment
billing-mail-plan-waits-text = { $amount } for the change of { $server } to { $plan } could not be charged without you. Everything stays as it is until it is paid. It can be paid until { $on }; after that the change does not come about, and nothing is charged.
billing-mail-plan-waits-page = Pay here:

billing-mail-plan-off-subject = { $server }: the change to { $plan } did not come about
billing-mail-plan-off-text-not_paid = Nobody paid for the change of { $server } to { $plan } in time. Everything is as before, and nothing was charged.
billing-mail-plan-off-text-costs_more = The change of { $server } to { $plan } would have cost more than you confirmed, because something else used up your credit meanwhile. It was not made and nothing was charged: look at the new sum and confirm it again.
billing-mail-plan-off-text-other = The change of { $server } to { $plan } could not be carried out. Everything is as before, and nothing was charged.
billing-mail-plan-off-page = You can try it again:

billing-mail-plan-booked-subject = { $server } becomes { $plan } on { $on }
billing-mail-plan-booked-text = You changed { $server } to { $plan }. It comes on { $on }, with the end of what is paid. Nothing is charged before. If it gets less memory or fewer CPUs, we restart it then.
billing-mail-plan-booked-page = You can take it back until then:
billing-mail-traffic-near-subject = { $server } has used most of its traffic in { $month }
billing-mail-traffic-near-text = { $server } has used { $used } of the { $included } of traffic that are included in { $month }.
billing-mail-traffic-over-subject = { $server } has used all of its traffic in { $month }
billing-mail-traffic-over-text = { $server } has used { $used } in { $month }; { $included } of traffic are included. It runs on as before, and from here on traffic costs extra until the month ends.
billing-mail-traffic-price = Each started 100 GB above that costs { $price }. It is put on the first invoice after the month is closed, two days after its end.
billing-mail-traffic-page = What it uses, and what that costs so far:

billing-mail-refund-failed-subject = { $amount } did not reach you
billing-mail-refund-failed-text = We sent { $amount } for { $server } back to the card you paid with, and your bank has returned it. The money is not lost: we have been told and pay it to you in another way. If that card is closed, answer this mail and say how you would like to get it.
