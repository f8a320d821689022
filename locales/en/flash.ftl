flash-saved = Saved.
flash-logged-out = You are logged out.
flash-email-verified = Your mail address is confirmed.
flash-password-changed = Your password is changed. Other sessions have been ended.
