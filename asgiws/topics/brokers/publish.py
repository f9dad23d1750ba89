"""Publishing through a broker without being a worker: for a shell, and for the supervisor."""

from __future__ import annotations

import asyncio
from typing import Final

from asgiws.config.broker_url import redact_broker_url
from asgiws.config.options import Config
from asgiws.topics.brokers.factory import make_broker
from asgiws.topics.brokers.payload import encode_payload
from asgiws.topics.brokers.session import BrokerError
from asgiws.topics.hub import Hub
from asgiws.topics.message import TopicsUnavailable, check_data, check_name

__all__ = ["publish_once"]

_PATIENCE_S: Final = 5.0


async def publish_once(config: Config, topic: str, data: str | bytes) -> None:
    """Publish one message over a connection of its own.

    Raises ValueError for a wrong name or more than --max-publish-size bytes, and TopicsUnavailable.
    """
    payload = encode_payload(check_data(data, config.max_publish_size))
    name, shown = config.topic_prefix + check_name(topic), redact_broker_url(config.broker)
    hub = Hub(asyncio.get_running_loop())
    try:
        session = make_broker(config, hub).make_session()
        session.probe_topics = ()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await session.open()
                await session.publish(name, payload)
        finally:
            await session.close()
    except BrokerError as error:
        raise TopicsUnavailable(f"broker {shown}: {error}") from None
    except TimeoutError:
        raise TopicsUnavailable(f"broker {shown} took nothing for {_PATIENCE_S:g} s") from None
