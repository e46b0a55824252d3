"""The partitions of what grows with time: a day of traffic and a week of sampling come into being when there is something of them."""

import dagster as dg

DAYS = dg.DynamicPartitionsDefinition(name="day")  # "2026-11-24", UTC
WEEKS = dg.DynamicPartitionsDefinition(name="week")  # its Monday
