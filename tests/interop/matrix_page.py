"""The cells of the matrix, and the page that shows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tests.interop.matrix_site import NETWORKS

PROGRAMS = {
    "sip": ("baresip", "baresip"),
    "pyvoip": ("Kamailio, baresip", "Kamailio, baresip"),
    "fxs": ("(our telephone)", "(our telephone)"),
    "fxo": ("(our exchange)", "(our exchange)"),
    "intercom": ("(our call point)", "(our call point)"),
    "radio": ("SvxLink", "(our transceiver)"),
}
"""Which program stood at a network's far end when it was called, and when it called."""
PAGE = Path(__file__).parents[2] / "docs" / "matrix.md"
OK = "yes"
HEARD_DBM0, STRAY_DBM0 = -25.0, -40.0
ZONES = ("hall (RTP)", "yard (Poly)", "staff (SPA)", "intercom/everywhere", "sip/carl")
SOURCES = {"m": "alarm (mqtt)", "c": "contact (modbus)", "l": "threshold (modbus)"}
OUTPUTS = ("mqtt/plant siren", "modbus/contacts siren", "intercom/b relay")
ZONE = "page zone"


@dataclass
class Cell:
    """One cell: what was to be shown, and what came of it."""

    group: str
    row: str
    column: str
    says: str = "not done: not played"
    """``yes``, perhaps with what is different here, or ``not done: why``."""
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was shown."""
        return self.says.startswith(OK)


@dataclass
class Matrix:
    """All cells."""

    cells: list[Cell] = field(default_factory=list)
    records: str = ""
    seconds: float = 0.0

    def of(self, group: str) -> dict[tuple[str, str], str]:
        """What the cells of a group say, by row and column."""
        return {(cell.row, cell.column): cell.says for cell in self.cells if cell.group == group}

    @property
    def missing(self) -> list[Cell]:
        """Cells that were not shown."""
        return [cell for cell in self.cells if not cell.ok]


def plan() -> list[Cell]:
    """Every cell there is."""
    cells = [Cell("calls", row, column) for row in NETWORKS for column in NETWORKS]
    cells += [Cell("pages", row, zone) for row in NETWORKS for zone in ZONES]
    cells += [Cell("alarms", source, net) for source in SOURCES.values() for net in NETWORKS]
    cells += [Cell("outputs", source, output) for source in SOURCES.values() for output in OUTPUTS]
    cells += [Cell("reports", source, net) for source in SOURCES.values() for net in NETWORKS]
    cells += [Cell("emergencies", "takes it when busy", each) for each in (*NETWORKS, ZONE)]
    cells += [Cell("escalations", "nobody takes it", network) for network in NETWORKS]
    cells += [Cell("conference", "hears all others", network) for network in NETWORKS]
    return cells


def render(matrix: Matrix) -> str:
    """The page. It holds nothing that differs from one run to the next."""
    parts = [_HEAD]
    for group, title, text in _GROUPS:
        says = matrix.of(group)
        rows = list(dict.fromkeys(row for row, _ in says))
        columns = list(dict.fromkeys(column for _, column in says))
        heads = columns
        if group == "calls":
            heads = [f"{column}<br>{PROGRAMS[column][0]}" for column in columns]
        lines = [f"| {'from / to' if group == 'calls' else ''} | " + " | ".join(heads) + " |"]
        lines.append("|---" * (len(columns) + 1) + "|")
        lines += [
            f"| **{row}**{f'<br>{PROGRAMS[row][1]}' if group == 'calls' else ''} | "
            + " | ".join(says[row, column] for column in columns)
            + " |"
            for row in rows
        ]
        parts.append(f"## {title}\n\n{text}\n\n" + "\n".join(lines))
    parts.append(f"## Records\n\n{_RECORDS}\n\n{matrix.records or 'not done: not looked at'}")
    done = len(matrix.cells) - len(matrix.missing)
    parts.append(f"{done} of {len(matrix.cells)} cells are shown.")
    return "\n\n".join(parts) + "\n"


_HEAD = f"""\
# Who reaches whom

Written by `python -m tests.interop.matrix --write` from what it measured;
`tests/interop/test_matrix.py` plays it again and compares. One gateway with every adapter, on
loopback, and programs of others around it wherever there are any:

| network | called | calling |
|---|---|---|
| sip | baresip | baresip |
| pyvoip | Kamailio with two baresip | the same |
| fxs, fxo | telephones and an exchange of ours: the virtual line card | the same |
| intercom | a call point of ours | the same |
| radio | a node of SvxLink, by its reflector | transceivers of ours: PTYs and UDP |
| page | receivers of ours; baresip is the paged telephone | nobody |
| mqtt | mosquitto | mosquitto_pub |
| modbus | a device made of libmodbus | the same |

Where the far end is ours, tests of the adapter have foreign ones: minimodem, multimon-ng and sox
read and write what the line card's ports say. A radio calls one number, and SvxReflector's version
1 has one channel: a node for each number would be too much for one machine.

Call points let go of everything after 150 ms without the gateway, here as on a wall; time in which
the whole program stood still, gateway and call points, is not counted.

The bus runs at 921600 Bd. Both its stations are full duplex and may speak with each other: four
blocks of 168 octets every 20 ms take 14.6 ms at 460800 Bd, without the pauses between frames. One
conversation needs 230400 Bd.

*yes*: each side sent a frequency of its own, the other was heard above {HEARD_DBM0:g} dBm0 and the
own one was below {STRAY_DBM0:g} dBm0 (Goertzel, median of windows of 0.1 s). What could not be
shown says so, and why."""
_GROUPS = (
    ("calls", "Calls",
     "Every ordered pair, hung up by either side in turn. With a radio the sides speak in turn, and"
     " a telephone takes the floor with `*` and gives it back with `#`."),
    ("pages", "Pages", "Each network speaks live to five zones at once."),
    ("alarms", "Alarms to people",
     "Each source calls each network, the announcement is heard, and it is acknowledged as the cell"
     " says."),
    ("outputs", "Alarms to outputs",
     "Each source switches each output on when it is raised, and off when it is acknowledged."),
    ("reports", "Reported back",
     "The source of each alarm above is told who took it in hand."),
    ("emergencies", "Emergencies",
     "Somebody is in a routine call there, or speaks in the zone, when an emergency needs it: it is"
     " called at once with the priority *emergency*, not queued; whom it displaced hears the"
     " warning tone, and his call ends with cause *preempted*."),
    ("escalations", "Nobody takes it: the next person",
     "Nobody answers there (or, on the air, nobody presses the key): the next person is called,"
     " and acknowledges with a digit."),
    ("conference", "Conference",
     "One leg of every network in one room. Everybody hears all others, and not himself; the radio"
     " by floor. The mixer adds and does not scale: each voice keeps its level."),
)  # fmt: skip
_RECORDS = "Each call above left one record for each of its legs: answered, cause *normal*."
