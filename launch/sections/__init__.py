"""The sections of a report: functions from a `Run` to HTML. Model text goes through `escape`."""
