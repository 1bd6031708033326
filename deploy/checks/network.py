"""Who may reach whom, by evaluating the NetworkPolicies of one namespace on the labels of its pods."""

from collections.abc import Mapping, Sequence

from deploy.checks.references import matches
from deploy.checks.render import Document

Labels = Mapping[str, str]


def allowed(policies: Sequence[Document], source: Labels, target: Labels, port: int) -> bool:
    """Whether a pod with the labels ``source`` may open a TCP connection to one with ``target``, in the same namespace.

    As Kubernetes does it: a pod that no policy of a direction selects is open in it; else one rule must let it pass.
    """
    return _passes(policies, "Egress", source, target, port) and _passes(policies, "Ingress", target, source, port)


def _passes(policies: Sequence[Document], direction: str, subject: Labels, peer: Labels, port: int) -> bool:
    selecting = [
        policy["spec"]
        for policy in policies
        if policy["kind"] == "NetworkPolicy"
        and direction in policy["spec"]["policyTypes"]
        and matches(policy["spec"]["podSelector"].get("matchLabels", {}), subject)
    ]
    if not selecting:
        return True
    peers = "to" if direction == "Egress" else "from"
    rules = [rule for spec in selecting for rule in spec.get(direction.lower(), [])]
    return any(_peer(rule, peers, peer) and _port(rule, port) for rule in rules)


def _peer(rule: Document, peers: str, labels: Labels) -> bool:
    if peers not in rule:
        return True
    # Peers with a namespaceSelector are elsewhere: ours has a name that none of them asks for.
    return any(
        "namespaceSelector" not in peer and matches(peer.get("podSelector", {}).get("matchLabels", {}), labels)
        for peer in rule[peers]
    )


def _port(rule: Document, port: int) -> bool:
    return "ports" not in rule or any(p["port"] == port and p.get("protocol", "TCP") == "TCP" for p in rule["ports"])
