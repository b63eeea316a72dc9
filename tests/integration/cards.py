"""Card payments as an application: customers and terminals over one stream, keyed by customer."""

from __future__ import annotations

import os
from typing import Any

import pipeline as pp

TOPIC = os.environ.get("CARDS_TOPIC", "payments")
APP = os.environ.get("CARDS_APP", "cards")
DAYS = (1, 7, 30)
CONTRACT: dict[str, Any] = {
    "title": "payment",
    "type": "object",
    "properties": {
        "customer": {"type": "integer"},
        "terminal": {"type": "integer"},
        "amount": {"type": "number", "x-decimal": 2},
        "fraud": {"type": "integer"},
        "at": {"type": "string", "format": "date-time"},
    },
    "required": ["customer", "terminal", "amount", "fraud", "at"],
}


def definitions(topic: str) -> tuple[pp.FeatureView, pp.FeatureView, pp.Trigger]:
    """Customers, terminals, and a trigger that sends a customer's features at each payment."""
    payments = pp.EventStream(topic, contract=pp.Contract.load(CONTRACT), key="customer", time="at")
    customer = pp.FeatureView(
        "customer",
        source=payments,
        entity="customer",
        features={f"payments_{d}d": pp.count("amount").over(f"{d}d") for d in DAYS}
        | {f"amount_{d}d": pp.mean("amount").over(f"{d}d") for d in DAYS},
    )
    terminal = pp.FeatureView(
        "terminal",
        source=payments,
        entity="terminal",
        features={f"payments_{d}d": pp.count("fraud").over(f"{d}d", delay="7d") for d in DAYS}
        | {f"fraud_{d}d": pp.mean("fraud", default=0.0).over(f"{d}d", delay="7d") for d in DAYS},
    )
    return customer, terminal, pp.Trigger("every_payment", view=customer)


customer, terminal, every_payment = definitions(TOPIC)
app = pp.App(APP, views=[customer, terminal], triggers=[every_payment])
