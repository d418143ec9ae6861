"""What becomes of samples: medians, the best of the peer's settings, ratios, tables. No measuring, no files."""

import statistics

# Ratios this close to 1 are ties: a shared machine varies as much.
TIE = 0.05
UNITS = {"speed": "tok/s", "start": "s", "memory": "MiB"}


def spread(samples):
    """Median, least and most of samples, and the samples."""
    return {"median": statistics.median(samples), "min": min(samples), "max": max(samples), "samples": samples}


def is_better(measure, value, other):
    """Whether `value` is better than `other`: more of a speed, less of time and memory."""
    return value > other if measure == "speed" else value < other


def best_setting(measure, peers):
    """The name of the setting with the best median; `peers` maps names to spreads."""
    names = list(peers)
    best = names[0]
    for name in names[1:]:
        if is_better(measure, peers[name]["median"], peers[best]["median"]):
            best = name
    return best


def ratio(measure, ours, peer):
    """How many times as good as the peer: above 1 is better for every measure."""
    return ours / peer if measure == "speed" else peer / ours


def cell(work, measure, model, test, samples):
    """A finished cell. `samples` has "undine" (a list), "peer" (a list per setting), and maybe "limits", a list of what
    `undine bench --roofline` said beside each of our samples."""
    peers = {name: spread(values) for name, values in samples["peer"].items()}
    best = best_setting(measure, peers)
    ours = spread(samples["undine"])
    made = {
        "work": work,
        "measure": measure,
        "model": model,
        "test": test,
        "undine": ours,
        "peer": peers,
        "best_peer": best,
        "ratio": ratio(measure, ours["median"], peers[best]["median"]),
    }
    if samples.get("limits"):
        limit = statistics.median(limits["limit_ts"] for limits in samples["limits"])
        made["limit"] = {
            "median": limit,
            "percent": 100 * ours["median"] / limit,
            "limited_by": samples["limits"][0]["limited_by"],
            "bytes_per_token": samples["limits"][0]["bytes_per_token"],
            "operations_per_token": samples["limits"][0]["operations_per_token"],
        }
    return made


def key(work, model, test):
    return f"{work} | {model} | {test}"


def hopeless(measure, samples, factor):
    """Settings of the peer that need no more rounds: worse than `factor` times the best one so far."""
    peers = {name: spread(values) for name, values in samples.items() if values}
    if not peers:
        return set()
    best = peers[best_setting(measure, peers)]["median"]
    return {name for name, values in peers.items() if ratio(measure, values["median"], best) < factor}


def verdict(value):
    """A ratio in words."""
    if abs(value - 1) <= TIE:
        return "tie"
    return "faster" if value > 1 else "slower"


def number(measure, value):
    """A value with its unit's usual digits."""
    if measure == "memory":
        return f"{value / 2**20:.0f}"
    if measure == "start":
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def markdown(record):
    """The run as tables for a README, one per work."""
    lines = []
    for work, title in record["works"].items():
        found = [made for made in record["cells"].values() if made["work"] == work]
        if not found:
            continue
        unit = UNITS[found[0]["measure"]]
        lines += [f"**{title}**, {unit}", "", "| model | test | Undine | llama.cpp | its setting | ratio | of the limit |"]
        lines.append("|---|---|---|---|---|---|---|")
        for made in found:
            measure, peer = made["measure"], made["peer"][made["best_peer"]]
            both = [
                f"{number(measure, side['median'])} ({number(measure, side['min'])} .. {number(measure, side['max'])})"
                for side in (made["undine"], peer)
            ]
            limit = f"{made['limit']['percent']:.0f}% ({made['limit']['limited_by']})" if "limit" in made else ""
            lines.append(
                f"| {made['model']} | {made['test']} | {both[0]} | {both[1]} | {made['best_peer']} | "
                f"{made['ratio']:.2f} | {limit} |"
            )
        lines.append("")
    return "\n".join(lines)


def conditions(record):
    """One or two sentences on machine, load and method."""
    machine = record["machine"]
    rounds = sorted({len(made["undine"]["samples"]) for made in record["cells"].values()})
    loads = [load["load1"] for made in record["cells"].values() for load in made.get("before", [])]
    busy = [load["busy"] for made in record["cells"].values() for load in made.get("before", []) if "busy" in load]
    text = f"{machine['cpu']}, {record['threads']} of {machine['cores']} cores, {record['date']}. "
    text += f"Medians of {' or '.join(map(str, rounds))} interleaved runs; {record['peer']['name']}, the best of its settings."
    if busy:
        text += f" Others kept {100 * statistics.mean(busy):.0f}% of the cores busy just before runs (at most {100 * max(busy):.0f}%)."
    elif loads:
        text += f" Load average before cells: {min(loads):.1f} to {max(loads):.1f}."
    return text
