accounts-mail-foot = EZ Solutions. You get this because somebody used this address with us.

accounts-mail-verify-subject = Confirm your mail address
accounts-mail-verify-text = Somebody, hopefully you, signed up at EZ Solutions with this address. Confirm it by opening this link within { $hours } hours and typing the password you chose:
accounts-mail-verify-button = Confirm the address
accounts-mail-verify-not-you = If it was not you, do nothing: without the link no account can be used.

accounts-mail-exists-subject = You already have an account
accounts-mail-exists-text = Somebody, hopefully you, signed up at EZ Solutions with this address, but it has an account already. Log in here:
accounts-mail-exists-forgot = If you do not know the password any more, set a new one here:
accounts-mail-exists-not-you = If it was not you, do nothing: nothing was changed.

accounts-mail-reset-subject = Set a new password
accounts-mail-reset-text = Somebody, hopefully you, asked for a new password at EZ Solutions. Set it by opening this link within { $minutes } minutes:
accounts-mail-reset-button = Set a new password
accounts-mail-reset-effect = A new password ends all your sessions and revokes your API tokens.
accounts-mail-reset-not-you = If it was not you, do nothing: your password stays as it is.
