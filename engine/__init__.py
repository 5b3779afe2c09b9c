"""The asynchronous machinery: tokens, groups, versions. It never sees a caption or a question."""
