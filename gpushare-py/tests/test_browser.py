"""What a notebook shows, looked at in a real browser: every word can be read and stands where it belongs.

GPUSHARE_BROWSER names a Chromium. GPUSHARE_SCREENSHOTS names a folder for what was seen.
"""

import base64
import json
import os
import unittest
from pathlib import Path

from browser import Browser
from common import MODES, Shared, layout, mig, spec
from gpushare import Gpu, Plan, draw
from gpushare._svg import COLOURS
from test_drawing import HOSTILE, luminance

PROGRAM = os.environ.get("GPUSHARE_BROWSER")
WIDE, NARROW = 1000, 360
PAGES = {"light": ("#ffffff", "#000000"), "dark": ("#111111", "#e0e0e0")}

# Nothing is allowed but style attributes.
STRICT = "default-src 'none'; style-src 'unsafe-inline'"
LONG = (
    "/opt/conda/envs/research/bin/python -m torch.distributed.run --nnodes 4 train.py --config W" + "W" * 200
)
TAGS = "<img src=x onerror=alert(1)>\"'><svg onload=alert(2)>"
FOREIGN = "訓練を実行するプロセス" * 20 + "👩🏽‍🔬" * 20 + "مُدَرِّب" * 20 + "e\u0301" * 50

FACTS = """
(() => {
    const box = element => {
        const { left, top, right, bottom } = element.getBoundingClientRect();
        return [left, top, right, bottom];
    };
    const told = group => group?.querySelector(":scope > title")?.textContent ?? "";
    const at = (x, y) => told(document.elementFromPoint(x, y)?.closest("g"));
    return {
        wide: [document.documentElement.scrollWidth, innerWidth],
        tags: [...new Set([...document.querySelectorAll("body *")].map(each => each.localName))].sort(),
        svgs: [...document.querySelectorAll("svg")].map(svg => ({
            name: svg.getAttribute("aria-label"),
            box: box(svg),
            rects: [...svg.querySelectorAll("rect")].map(rect => {
                const [left, top, right, bottom] = box(rect);
                return {
                    box: [left, top, right, bottom],
                    data: { ...rect.dataset },
                    told: told(rect.closest("g")),
                    // Beside its words, in its upper right corner.
                    pointed: at(right - 2, top + 2),
                };
            }),
            texts: [...svg.querySelectorAll("text")].map(text => ({
                said: text.textContent,
                box: box(text),
                ink: getComputedStyle(text).fill.match(/\\d+/g).map(Number),
                within: box(text.closest("g")?.querySelector(":scope > rect") ?? svg),
                pointed: at((box(text)[0] + box(text)[2]) / 2, (box(text)[1] + box(text)[3]) / 2),
            })),
        })),
    };
})()
"""

# The colours of a picture, and how far each box differs at most from the colour beside it.
PIXELS = """
(async (picture, points, boxes) => {
    const image = new Image();
    image.src = "data:image/png;base64," + picture;
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = image.width;
    canvas.height = image.height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const rgb = (x, y) => {
        const { data } = context.getImageData(Math.floor(x), Math.floor(y), 1, 1);
        return [...data].slice(0, 3);
    };
    return {
        size: [image.width, image.height],
        points: points.map(([x, y]) => rgb(x, y)),
        boxes: boxes.map(([left, top, right, bottom]) => {
            const behind = rgb(left - 2, (top + bottom) / 2);
            const { data } = context.getImageData(left, top, right - left, bottom - top);
            let most = 0;
            for (let at = 0; at < data.length; at += 4)
                for (let channel = 0; channel < 3; channel++)
                    most = Math.max(most, Math.abs(data[at + channel] - behind[channel]));
            return { behind, most };
        }),
    };
})
"""


class Simulated(Shared):
    """A simulated node, for a while."""

    def __init__(self, fleet):
        super().__init__()
        self.FLEET = fleet

    def __enter__(self):
        self.setUp()
        return self

    def __exit__(self, *_):
        self.doCleanups()


def drawings():
    """What notebooks show: (what it is, HTML)."""
    with Simulated("1xH100-80GB") as one:
        yield from _gpus(one)
    with Simulated("2xH100-80GB") as two:
        yield from _plans(two)
    with Simulated("8xH100-80GB") as eight:
        yield "a node as it is", draw(eight.node.status())
        yield "a plan for a node", draw(eight.node.plan(spec({"select": "all", "mode": "mps"})))
        yield from _hostile(eight)


def shared(profile, count, **sharing):
    """A MIG layout of one profile, each instance shared."""
    instances = [{"profile": profile, **sharing}] * count
    return spec({"select": 0, "mode": "mig", "mig": {"instances": instances}})


def change(plan):
    """Applies a plan, whatever it needs."""
    hazards = [hazard.name for hazard in plan.needs.hazards]
    plan.apply(allow_evict=True, allow_reset=True, allow_hazards=hazards)


def _gpus(one):
    node = one.node
    for mode, wanted in MODES.items():
        change(node.plan(wanted))
        yield mode, draw(node.gpus[0])
    layout(node, 0, **{"3g": 1, "2g": 1, "1g": 2})
    first, *_, last = node.gpus[0].mig_devices
    with node.lease(share=first.uuid):
        one.busy(first.uuid, "--command", LONG)
        for _ in range(14):
            one.busy(last.uuid)
        yield "leased and busy MIG devices", draw(node.status())
    yield "a plan that evicts", draw(node.plan(mig(0, **{"1g": 7})))
    for process in node.gpus[0].processes:
        one.command("sim", "idle", str(process.pid))
    for instances in ({"1g": 7}, {"7g": 1}, {"4g": 1, "3g": 1}, {"1g.10gb+me": 1}):
        layout(node, 0, **instances)
        yield f"{instances}", draw(node.gpus[0])
    for replicas in (1, 4):
        change(node.plan(shared("1g.10gb", 7, time_sliced={"replicas": replicas})))
        with node.lease(mig="1g.10gb"), node.lease(mig="1g.10gb"):
            yield f"seven of {replicas} replicas", draw(node.gpus[0])
    change(node.plan(shared("1g.10gb", 7, mps={"max_clients": 2})))
    with node.lease(mig="1g.10gb"):
        yield "MPS on MIG", draw(node.gpus[0])
    parts = {"profile": "3g.40gb", "start": 4, "compute": ["1c", "2c"]}
    plan = node.plan(spec({"select": 0, "mode": "mig", "mig": {"instances": [parts]}}))
    yield "a plan of compute instances", draw(plan)
    change(plan)
    yield "compute instances", draw(node.gpus[0])
    one.command("sim", "act-as", "1000")
    yield "MIG devices that stand somewhere", draw(node.gpus[0])
    one.command("sim", "act-as", "0")
    for percentage, clients in ((25, 4), (25, 2), (100, 48)):
        mps = {"thread_percentage": percentage, "max_clients": clients, "pinned_memory_limit": "4GiB"}
        change(node.plan(spec({"select": 0, "mode": "mps", "mps": mps})))
        pid = one.busy(0, "--kind", "mps-client", "--command", LONG)
        with node.lease(gpu=0):
            yield f"MPS, {clients} of {percentage} %", draw(node.gpus[0])
        one.command("sim", "idle", str(pid))
    for replicas in (7, 48, 1024):
        change(node.plan(spec({"select": 0, "mode": "time_sliced", "time_sliced": {"replicas": replicas}})))
        with node.lease(gpu=0):
            yield f"{replicas} replicas", draw(node.gpus[0])


def _plans(two):
    node = two.node
    mps = {"thread_percentage": 100, "max_clients": 3, "pinned_memory_limit": "8GiB"}
    entries = (
        {"select": 0, "mode": "mps", "mps": mps},
        {"select": 0, "mode": "time_sliced", "time_sliced": {"replicas": 5}},
        {"select": "all", "mode": "exclusive"},
        {"select": 0, "mode": "mig", "mig": {"instances": {"3g": 1, "1g": 2}}},
        {"select": 0, "mode": "mig", "mig": {"instances": {"3g": 1, "2g": 1, "1g": 1}}},
    )
    for entry in entries:
        plan = node.plan(spec(entry))
        yield f"a plan for {entry['mode']}", draw(plan)
        change(plan)
    for sharing in ({"time_sliced": {"replicas": 4}}, {"mps": {"max_clients": 2}}):
        plan = node.plan(shared("1g.10gb", 7, **sharing))
        yield f"a plan for MIG with {[*sharing]}", draw(plan)
        change(plan)
    yield "a plan that does nothing", draw(node.plan(shared("1g.10gb", 7, mps={"max_clients": 2})))
    change(node.plan(MODES["time_sliced"]))
    two.busy(0, "--command", LONG)
    mps = {"thread_percentage": 40, "max_clients": 2}
    yield "a plan that needs consent", draw(node.plan(spec({"select": 0, "mode": "mps", "mps": mps})))


def _hostile(eight):
    node = eight.node
    change(node.plan(mig(0, **{"1g": 2})))
    eight.busy(node.gpus[0].mig_devices[0].uuid)

    for name in (HOSTILE, TAGS, FOREIGN, LONG):

        def spoil(value, key=None, name=name):
            """Every free text of a document, replaced."""
            if isinstance(value, dict):
                return {word: spoil(below, word) for word, below in value.items()}
            if isinstance(value, list):
                return [spoil(below) for below in value]
            return name if key in {"model", "reason", "command"} else value

        document = spoil(node.gpus[0].to_dict()) | {"cordoned": name}
        yield f"names like {name[:12]!r}", draw(Gpu._from_json(json.dumps(document)))
        plan = node.plan(spec({"select": 0, "mode": "mps"})).to_dict()
        for gpu in plan["gpus"]:
            gpu["model"] = name
            gpu["notes"] = [name]
        yield f"a plan with names like {name[:12]!r}", draw(Plan._from_json(json.dumps(plan)))


def page(shown, colours, policy=STRICT):
    """A page like a notebook's."""
    paper, ink = colours
    rule = f'<meta http-equiv="Content-Security-Policy" content="{policy}">' if policy else ""
    style = f"margin:16px;background:{paper};color:{ink};font:13px/1.3 sans-serif"
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">{rule}<title>notebook</title></head>'
        f'<body style="{style}">{shown}</body></html>'
    )


def inside(inner, outer, slack=0.5):
    return (
        inner[0] >= outer[0] - slack
        and inner[1] >= outer[1] - slack
        and inner[2] <= outer[2] + slack
        and inner[3] <= outer[3] + slack
    )


def overlap(one, other, slack=1.0):
    """Whether two boxes share more than a line's leading."""
    return (
        min(one[2], other[2]) - max(one[0], other[0]) > slack / 2
        and min(one[3], other[3]) - max(one[1], other[1]) > slack
    )


def wrong(facts):
    """What is not as it should be on a page, in words."""
    scroll, room = facts["wide"]
    if scroll > room:
        yield f"the page scrolls sideways: {scroll} of {room}"
    for svg in facts["svgs"]:
        name = svg["name"]
        if svg["box"][2] > room:
            yield f"{name}: {svg['box']} is wider than the page"
        for rect in svg["rects"]:
            left, top, right, bottom = rect["box"]
            if right <= left or bottom - top < 10 or not inside(rect["box"], svg["box"]):
                yield f"{name}: {rect['data']} cannot be seen: {rect['box']}"
            if "slot" in rect["data"]:
                continue
            if not rect["told"] or (right - left > 4 and rect["pointed"] != rect["told"]):
                yield f"{name}: pointing at {rect['told']!r} tells {rect['pointed']!r}"
        cells = [rect["box"] for rect in svg["rects"] if "state" in rect["data"]]
        for number, text in enumerate(svg["texts"]):
            if not inside(text["box"], svg["box"]):
                yield f"{name}: {text['said']!r} leaves the drawing: {text['box']} of {svg['box']}"
            elif not inside(text["box"], text["within"]):
                yield f"{name}: {text['said']!r} leaves its box: {text['box']} of {text['within']}"
            if text["said"].endswith("…") and not text["pointed"].startswith(text["said"][:-1]):
                yield f"{name}: pointing at {text['said']!r} tells {text['pointed']!r}"
            for cell in cells:
                if overlap(text["box"], cell) and cell != text["within"]:
                    yield f"{name}: {text['said']!r} runs into a cell: {text['box']} and {cell}"
            for other in svg["texts"][:number]:
                if overlap(text["box"], other["box"]):
                    yield f"{name}: {other['said']!r} and {text['said']!r} overlap"


def colour(said):
    return [int(said[at : at + 2], 16) for at in (1, 3, 5)]


def differ(one, other):
    return max(abs(c - d) for c, d in zip(one, other, strict=True))


def contrast(one, other):
    lighter, darker = sorted(
        (luminance("#" + "".join(f"{c:02x}" for c in of)) for of in (one, other)), reverse=True
    )
    return (lighter + 0.05) / (darker + 0.05)


def ill_painted(browser, facts):
    """What is not painted as it should be, in words. The page is left."""
    picture = browser.screenshot()
    rects = [(svg["name"], rect) for svg in facts["svgs"] for rect in svg["rects"] if "state" in rect["data"]]
    texts = [(svg["name"], text) for svg in facts["svgs"] for text in svg["texts"]]
    # Above its words; and where it begins, as wide as a line is at most.
    points = [((r["box"][0] + r["box"][2]) / 2, r["box"][1] + 3) for _, r in rects]
    points += ((r["box"][0] + near, r["box"][1] + 3) for _, r in rects for near in (-0.9, 0, 0.9))
    boxes = [text["box"] for _, text in texts]
    browser.show("<!DOCTYPE html><title>canvas</title>", 300)
    pixels = browser.value(f"({PIXELS})({json.dumps(picture)}, {json.dumps(points)}, {json.dumps(boxes)})")
    inner, edges = pixels["points"][: len(rects)], pixels["points"][len(rects) :]
    for number, (name, rect) in enumerate(rects):
        left, _, right, _ = rect["box"]
        fill, _ = COLOURS[rect["data"]["state"]]
        off = differ(inner[number], colour(fill))
        if right - left > 4:
            slack = 0
        else:
            beside = {other["data"]["state"] for _, other in rects[max(number - 2, 0) : number + 3]}
            slack = 16 if len(beside) == 1 else 255
        if off > slack:
            yield f"{name}: {rect['told']!r} is painted {inner[number]} and not {fill}"
        edge = edges[3 * number : 3 * number + 3]
        if right - left > 4 and max(differ(at, colour(fill)) for at in edge) < 32:
            yield f"{name}: {rect['told']!r} runs together with what is beside it: {edge}"
    for (name, text), painted in zip(texts, pixels["boxes"], strict=True):
        if contrast(text["ink"], painted["behind"]) < 4.5:
            yield f"{name}: {text['said']!r} in {text['ink']} on {painted['behind']} can hardly be read"
        if painted["most"] < 96 and text["said"].isascii():
            yield f"{name}: {text['said']!r} is not painted"


# A drawing with something wrong in it: (what is replaced, by what, what is said about it).
FAULTS = (
    ('font-size="12"', 'font-size="24"', "leaves its box"),
    ('font-size="10"', 'font-size="13"', "leaves its box"),
    (" · ", "WWWWWWWWWWWWWWWW" * 5, "leaves the drawing"),
    ('y="82"', 'y="72"', "overlap"),
    ('height="24"', 'height="24" display="none"', "cannot be seen"),
    ('height="24"', 'height="40" transform="translate(0 -20)"', "runs into a cell"),
    ("<title>share", "<desc>share", "pointing at"),
    (' pointer-events="all"', "", "pointing at"),
    ("max-width:100%", "max-width:2000px;width:2000px", "scrolls sideways"),
)
PAINTED_FAULTS = (
    (COLOURS["free"][0], "#dbe7f0", "is painted"),
    (COLOURS["free"][1], "#8899aa", "can hardly be read"),
    (f'stroke="{COLOURS["free"][1]}"', 'stroke="none"', "runs together"),
    ("currentColor", "#999999", "can hardly be read"),
    ("<text ", '<text opacity="0.1" ', "is not painted"),
)


@unittest.skipUnless(PROGRAM, "GPUSHARE_BROWSER names no browser")
class InABrowser(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.browser = Browser(PROGRAM)
        cls.addClassCleanup(cls.browser.close)
        cls.drawings = dict(drawings())
        cls.all = "".join(cls.drawings.values())

    def keep(self, name):
        if folder := os.environ.get("GPUSHARE_SCREENSHOTS"):
            (Path(folder) / f"{name}.png").write_bytes(base64.b64decode(self.browser.screenshot()))

    def assert_none(self, found):
        if found := [*found]:
            self.fail("\n".join([f"{len(found)} things are wrong:", *found[:20]]))

    def test_everything_is_where_it_belongs_and_can_be_read(self) -> None:
        for paper, colours in PAGES.items():
            for width in (WIDE, NARROW):
                with self.subTest(paper=paper, width=width):
                    self.assertEqual(self.browser.show(page(self.all, colours), width), [])
                    facts = self.browser.value(FACTS)
                    self.keep(f"{paper}-{width}")
                    self.assertEqual(len(facts["svgs"]), self.all.count("<svg"))
                    self.assert_none(wrong(facts))
                    if width == WIDE:
                        self.assert_none(ill_painted(self.browser, facts))

    def test_names_are_only_text_where_scripts_may_run(self) -> None:
        self.assertEqual(self.browser.show(page(self.all, PAGES["light"], policy=None), WIDE), [])
        tags = self.browser.value(FACTS)["tags"]
        self.assertEqual(tags, ["desc", "div", "g", "p", "rect", "svg", "text", "title"])
        for name in (HOSTILE[:20], TAGS):
            self.assertTrue(self.browser.value(f"document.body.textContent.includes({json.dumps(name)})"))

    def test_what_would_be_wrong_is_seen(self) -> None:
        shown = self.drawings["leased and busy MIG devices"]
        for was, is_now, said in FAULTS:
            with self.subTest(was, is_now=is_now):
                self.assertIn(was, shown)
                self.browser.show(page(shown.replace(was, is_now), PAGES["light"]), WIDE)
                self.assertIn(said, "\n".join(wrong(self.browser.value(FACTS))))
        shown = self.drawings["7 replicas"]
        for was, is_now, said in PAINTED_FAULTS:
            with self.subTest(was, is_now=is_now):
                self.assertIn(was, shown)
                self.browser.show(page(shown.replace(was, is_now), PAGES["light"]), WIDE)
                facts = self.browser.value(FACTS)
                self.assertIn(said, "\n".join(ill_painted(self.browser, facts)))

    def test_what_would_happen_is_seen(self) -> None:
        for policy in (STRICT, None):
            for fault in (
                "<script>alert(1)</script>",
                "<script>console.log(1)</script>",
                "<script>nothing.at.all</script>",
                "<svg onload=alert(1)></svg>",
                "<img src='http://127.0.0.1:9/it.png'>",
                "<style>@import url('http://127.0.0.1:9/it.css')</style>",
            ):
                with self.subTest(fault, policy=policy):
                    self.assertNotEqual(self.browser.show(page(fault, PAGES["light"], policy), WIDE), [])
            self.assertEqual(self.browser.show(page("<p>nothing</p>", PAGES["light"], policy), WIDE), [])


if __name__ == "__main__":
    unittest.main()
