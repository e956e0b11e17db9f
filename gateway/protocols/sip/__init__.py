"""SIP without sockets: messages, transactions, dialogs and the agent that joins them.

Start with `gateway.protocols.sip.agent.SipAgent`.
"""
