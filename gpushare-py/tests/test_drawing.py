"""What notebooks show: SVG that can be read anywhere, with every share once and where it is."""

import copy
import itertools
import json
import pickle
import unittest
from xml.etree import ElementTree

import gpushare
from common import MODES, Shared, alone, layout, mig, spec
from gpushare import Gpu, Plan, SharingMode, Snapshot, draw
from gpushare._svg import COLOURS, LEFT, SLOT, WIDTH

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<script>alert('\"&amp;]]>')</script>\x1b[2J\u202e\u200b\u200f\u2028\u2029\u061c\ufeffevil"


def read(drawing):
    """A drawing as XML, after what holds for each."""
    root = ElementTree.fromstring(drawing)
    for element in root.iter():
        tag = element.tag.removeprefix(SVG)
        assert tag in {"div", "p", "svg", "title", "desc", "g", "rect", "text"}, tag
        for name, value in element.attrib.items():
            assert not name.startswith("on") and name not in {"id", "class", "href", "src"}, name
            assert "url(" not in value and "://" not in value, value
    for svg in root.iter(SVG + "svg"):
        assert svg.get("role") == "img"
        assert [child.tag for child in svg][:2] == [SVG + "title", SVG + "desc"]
        assert svg[0].text and svg[1].text and svg.get("aria-label") == svg[0].text
        _, _, width, height = map(float, svg.get("viewBox").split())
        for element in svg.iter():
            if element.tag in (SVG + "rect", SVG + "text"):
                x, y = float(element.get("x")), float(element.get("y"))
                assert 0 <= x <= x + float(element.get("width", 0)) <= width, element.attrib
                assert 0 <= y <= y + float(element.get("height", 0)) <= height, element.attrib
    return root


def rects(root, name):
    """x and width of the rects with a data attribute, by what it says. Each of them once."""
    found = {}
    for rect in root.iter(SVG + "rect"):
        if (said := rect.get(f"data-{name}")) is not None:
            assert said not in found, f"{said} is drawn twice"
            found[said] = (float(rect.get("x")), float(rect.get("width")))
    return found


def texts(root):
    return [element.text or "" for element in root.iter() if element.tag in (SVG + "text", "p")]


def told(root):
    return "\n".join("".join(element.itertext()) for element in root.iter(SVG + "title"))


def luminance(colour):
    channels = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


class Drawn(Shared):
    def assert_devices(self, gpu):
        """Every MIG device and every share once, where the GPU says that they are."""
        root = read(draw(gpu))
        document = gpu.to_dict()["mig"]
        slices = {profile["id"]: profile["slices"] for profile in document["profiles"]}
        wanted = {}
        for instance in document["gpu_instances"]:
            start, size = instance["placement"]["start"], instance["placement"]["size"]
            for part in instance["compute_instances"]:
                of = slices[instance["profile"]]
                left = LEFT + SLOT * (start + size * part["start"] / of)
                wanted[part["uuid"]] = (left, SLOT * size * part["slices"] / of)
        devices, shares = rects(root, "device"), rects(root, "share")
        self.assertEqual(set(devices), set(wanted))
        for uuid, (x, width) in wanted.items():
            self.assertAlmostEqual(devices[uuid][0], x, 2)
            self.assertAlmostEqual(devices[uuid][1], width, 2)
        self.assertEqual(set(shares), {share.id for share in gpu.shares})
        for share in gpu.shares:
            x, width = devices[share.device]
            self.assertGreaterEqual(shares[share.id][0], x - 0.01)
            self.assertLessEqual(sum(shares[share.id]), x + width + 0.01)
        for device in gpu.mig_devices:
            self.assertIn(device.uuid, told(root))
        return root


class Mig(Drawn):
    FLEET = "1xH100-80GB,1xA30-24GB"

    def test_every_placement_of_every_profile(self) -> None:
        for index in (0, 1):
            seen = set()
            for profile in self.node.gpus[index].to_dict()["mig"]["profiles"]:
                for place in profile["placements"]:
                    wanted = {"profile": profile["name"], "start": place["start"]}
                    entry = {"select": index, "mode": "mig", "mig": {"instances": [wanted]}}
                    self.node.plan(spec(entry)).apply(allow_reset=True)
                    gpu = self.node.gpus[index]
                    root = self.assert_devices(gpu)
                    [(x, width)] = rects(root, "device").values()
                    self.assertEqual(x, LEFT + SLOT * place["start"])
                    self.assertEqual(width, SLOT * place["size"])
                    self.assertIn(gpu.mig_devices[0].profile, texts(root))
                    seen.add((x, width))
            self.assertGreaterEqual(len(seen), 7)

    def test_full_layouts(self) -> None:
        layouts = (
            {"1g": 7},
            {"3g": 2},
            {"4g": 1, "3g": 1},
            {"7g": 1},
            {"2g": 3, "1g": 1},
            {"3g": 1, "1g": 4},
        )
        for instances in layouts:
            with self.subTest(instances):
                layout(self.node, 0, **instances)
                gpu = self.node.gpus[0]
                self.assertEqual(len(gpu.mig_devices), sum(instances.values()))
                root = self.assert_devices(gpu)
                lefts = sorted(rects(root, "device").values())
                for (x, width), (following, _) in itertools.pairwise(lefts):
                    self.assertLessEqual(x + width, following)
                self.assertEqual(set(rects(root, "slot")), {f"{slot}" for slot in range(8)})

    def test_compute_instances_are_parts_of_their_gpu_instance(self) -> None:
        wanted = [{"profile": "3g.40gb", "start": 4, "compute": ["1c", "2c"]}, {"profile": "4g.40gb"}]
        entry = {"select": 0, "mode": "mig", "mig": {"instances": wanted}}
        self.node.plan(spec(entry)).apply()
        root = self.assert_devices(self.node.gpus[0])
        self.assertEqual(len(rects(root, "device")), 3)
        thirds = {round(width / SLOT / 4 * 3, 2) for x, width in rects(root, "device").values() if x > 300}
        self.assertEqual(thirds, {1.0, 2.0})

    def test_where_a_device_stands_may_be_unseen(self) -> None:
        layout(self.node, 0, **{"3g": 1, "1g": 2})
        self.command("sim", "act-as", "1000")
        gpu = self.node.gpus[0]
        root = read(draw(gpu))
        self.assertEqual(set(rects(root, "device")), {device.uuid for device in gpu.mig_devices})
        self.assertTrue(any("stand was not seen" in text for text in texts(root)))
        self.assertTrue(any("not all was seen" in text for text in texts(root)))

    def test_leases_and_processes_stand_in_their_device(self) -> None:
        layout(self.node, 0, **{"3g": 1, "1g": 2})
        free, held = (d for d in self.node.gpus[0].mig_devices if d.profile == "1g.10gb")
        pid = self.busy(free.uuid, "--command", HOSTILE.replace("\x1b", ""))
        with self.node.lease(share=held.uuid) as lease:
            root = self.assert_devices(self.node.gpus[0])
            states = {r.get("data-share"): r.get("data-state") for r in root.iter(SVG + "rect")}
            self.assertEqual(states[held.uuid], "leased")
            self.assertEqual(states[free.uuid], "free")
            self.assertIn(lease.name, told(root))
        for group in root.iter(SVG + "g"):
            device = [rect.get("data-device") for rect in group if rect.tag == SVG + "rect"]
            if any(device):
                self.assertEqual(f"pid {pid}" in texts(group), device == [free.uuid])

    def test_many_processes_are_counted(self) -> None:
        layout(self.node, 0, **{"1g": 1})
        [device] = self.node.gpus[0].mig_devices
        for _ in range(14):
            self.busy(device.uuid)
        shown = texts(read(draw(self.node.gpus[0])))
        self.assertIn("14 processes", shown)
        self.assertEqual(sum("python train.py" in text for text in shown), 12)
        self.assertIn("and 2 processes more", shown)


class Modes(Drawn):
    FLEET = "5xH100-80GB"

    def test_a_gpu_of_every_mode_that_can_be_asked_for(self) -> None:
        for mode, wanted in MODES.items():
            self.node.plan(wanted).apply()
            gpu = self.node.gpus[0]
            root = read(draw(gpu))
            self.assertIn(gpu.uuid, "".join(texts(root)))
            self.assertEqual(gpu.mode, mode)
            self.assertTrue(any(mode in text for text in texts(root)))
            self.assertEqual(set(rects(root, "share")), {share.id for share in gpu.shares})

    def test_every_mode_that_can_be_said(self) -> None:
        document = json.dumps(self.node.gpus[0].to_dict())
        for mode in SharingMode:
            gpu = Gpu._from_json(document.replace('"mode": "time_sliced"', f'"mode": "{mode}"'))
            self.assertIs(gpu.mode, mode)
            self.assertTrue(any(mode.value in text for text in texts(read(draw(gpu)))), mode)

    def test_a_lost_gpu_a_dead_daemon_and_a_cordon(self) -> None:
        self.node.plan(spec({"select": 0, "mode": "mps"}, {"select": 1, "mode": "exclusive"})).apply()
        self.node.cordon(2, "the fan <b>sings</b>")
        self.command("sim", "kill-mps", "0")
        self.command("sim", "lose", "1")
        snapshot = self.node.status()
        modes = {gpu.mode for gpu in snapshot.gpus}
        self.assertLessEqual({SharingMode.LOST, SharingMode.DEGRADED}, modes)
        root = read(draw(snapshot))
        self.assertEqual(len(list(root.iter(SVG + "svg"))), len(snapshot.gpus))
        for mode in modes:
            self.assertTrue(any(mode.value in text for text in texts(root)), mode)
        self.assertTrue(any("<b>sings</b>" in text for text in texts(root)))

    def test_mps_shares_are_as_wide_as_what_they_get(self) -> None:
        for percentage, clients, wide in ((25, 4, 0.25), (25, 2, 0.25), (100, 5, 0.2)):
            mps = {"thread_percentage": percentage, "max_clients": clients}
            self.node.plan(spec({"select": 0, "mode": "mps", "mps": mps})).apply()
            pid = self.busy(0, "--kind", "mps-client")
            root = read(draw(self.node.gpus[0]))
            cells = rects(root, "share")
            self.assertEqual(len(cells), clients)
            for number, share in enumerate(self.node.gpus[0].shares):
                x, width = cells[share.id]
                self.assertAlmostEqual(width, wide * WIDTH, 2)
                self.assertAlmostEqual(x, LEFT + number * wide * WIDTH, 2)
            self.assertTrue(any(f"≤ {percentage} %" in text for text in texts(root)))
            self.assertTrue(any(text.startswith(f"pid {pid} (") for text in texts(root)))
            self.command("sim", "idle", str(pid))

    def test_replicas_share_the_bar(self) -> None:
        for replicas in (1, 3, 48):
            wanted = {"select": 0, "mode": "time_sliced", "time_sliced": {"replicas": replicas}}
            self.node.plan(spec(wanted)).apply()
            cells = sorted(rects(read(draw(self.node.gpus[0])), "share").values())
            self.assertEqual(len(cells), replicas)
            for number, (x, width) in enumerate(cells):
                self.assertAlmostEqual(width, WIDTH / replicas, 2)
                self.assertAlmostEqual(x, LEFT + number * WIDTH / replicas, 2)


class Plans(Drawn):
    FLEET = "2xH100-80GB"

    def rows(self, plan):
        """Before and after of each GPU of a plan: (where, how wide, state) of the cells."""
        found = []
        for svg in read(draw(plan)).iter(SVG + "svg"):
            row = None
            rows = {}
            for element in svg:
                said = "".join(element.itertext())
                if element.tag == SVG + "text" and said.startswith(("before: ", "after: ")):
                    row = rows.setdefault(said.split(":")[0], [])
                elif element.tag == SVG + "g":
                    row += [
                        (float(rect.get("x")), float(rect.get("width")), rect.get("data-state"))
                        for rect in element.iter(SVG + "rect")
                        if rect.get("data-state")
                    ]
            found.append((rows["before"], rows["after"]))
        return found

    def test_they_differ_where_they_should(self) -> None:
        layout(self.node, 0, **{"3g": 1, "1g": 2})
        plan = self.node.plan(mig(0, **{"3g": 1, "2g": 1, "1g": 1}))
        [(before, after)] = self.rows(plan)
        at = {start: LEFT + SLOT * start for start in range(8)}
        self.assertEqual(before[-1], (at[4], 4 * SLOT, "stays"))
        self.assertEqual(after[-1], (at[4], 4 * SLOT, "stays"))
        self.assertEqual(sorted(cell[2] for cell in before), ["goes", "stays", "stays"])
        self.assertEqual(sorted(cell[2] for cell in after), ["new", "stays", "stays"])
        kept = [cell for cell in before if cell[2] == "stays"]
        self.assertEqual(kept, [cell for cell in after if cell[2] == "stays"])
        plan.apply()
        devices = rects(read(draw(self.node.gpus[0])), "device")
        self.assertEqual(sorted(devices.values()), sorted(cell[:2] for cell in after))

    def test_after_is_what_apply_makes(self) -> None:
        for instances in ({"1g": 7}, {"3g": 2}, {"2g": 2, "3g": 1}, {"1g": 1}):
            previous = sorted(rects(read(draw(self.node.gpus[0])), "device").values())
            partitioned = self.node.gpus[0].mode is SharingMode.MIG
            plan = self.node.plan(mig(0, **instances))
            [(before, after)] = self.rows(plan)
            if partitioned:
                self.assertEqual(sorted(cell[:2] for cell in before), previous)
            plan.apply()
            made = sorted(rects(read(draw(self.node.gpus[0])), "device").values())
            self.assertEqual(sorted(cell[:2] for cell in after), made)

    def test_compute_instances_change_within_an_instance_that_stays(self) -> None:
        layout(self.node, 0, **{"3g": 1})
        [device] = self.node.gpus[0].mig_devices
        parts = [{"profile": "3g.40gb", "start": device.start, "compute": ["1c", "2c"]}]
        plan = self.node.plan(spec({"select": 0, "mode": "mig", "mig": {"instances": parts}}))
        [(before, after)] = self.rows(plan)
        self.assertEqual([cell[2] for cell in before], ["goes"])
        self.assertEqual([cell[2] for cell in after], ["new", "new"])
        plan.apply()
        made = sorted(rects(read(draw(self.node.gpus[0])), "device").values())
        self.assertEqual(sorted(cell[:2] for cell in after), made)

    def test_modes_and_their_shares(self) -> None:
        mps = {"thread_percentage": 25, "max_clients": 3}
        time_sliced = {"select": 0, "mode": "time_sliced", "time_sliced": {"replicas": 5}}
        for entry, shares, width in (
            ({"select": 0, "mode": "mps", "mps": mps}, 3, WIDTH / 4),
            (time_sliced, 5, WIDTH / 5),
            ({"select": 0, "mode": "exclusive"}, 1, WIDTH),
        ):
            plan = self.node.plan(spec(entry))
            [(before, after)] = self.rows(plan)
            self.assertEqual({cell[2] for cell in before}, {"goes"})
            self.assertEqual([cell[2] for cell in after], ["new"] * shares)
            for cell in after:
                self.assertAlmostEqual(cell[1], width, 2)
            plan.apply()
            drawn = sorted(rects(read(draw(self.node.gpus[0])), "share").values())
            self.assertEqual(sorted(cell[:2] for cell in after), drawn)

    def test_shares_of_mig_devices(self) -> None:
        """Each share where apply makes it; what stays has its shares exchanged."""

        def wanted(sharing):
            apart = {"profile": "3g.40gb", "start": 4, "compute": ["1c", "2c"], **sharing}
            shared = [{"profile": "1g.10gb", "start": start, **sharing} for start in (0, 1)]
            return spec({"select": 0, "mode": "mig", "mig": {"instances": [apart, *shared]}})

        before = [({}, 1), ({"time_sliced": {"replicas": 4}}, 4), ({"mps": {"max_clients": 2}}, 2)]
        for number, (sharing, count) in enumerate(before):
            layout(self.node, 0, **{"7g": 1})
            plan = self.node.plan(wanted(sharing))
            [(_, after)] = self.rows(plan)
            self.assertEqual([cell[2] for cell in after], ["new"] * 4 * count)
            plan.apply(allow_hazards=[hazard.name for hazard in plan.needs.hazards])
            drawn = sorted(rects(read(draw(self.node.gpus[0])), "share").values())
            for cell, (x, width) in zip(sorted(after), drawn, strict=True):
                self.assertAlmostEqual(cell[0], x, 2)
                self.assertAlmostEqual(cell[1], width, 2)
            for following, others in before[:number] + before[number + 1 :]:
                plan = self.node.plan(wanted(following))
                [(was, will_be)] = self.rows(plan)
                # How the compute instances stand in what stays the plan does not tell.
                self.assertEqual([cell[2] for cell in was], ["goes"] * (2 * count + 1))
                self.assertEqual([cell[2] for cell in will_be], ["new"] * (2 * others + 1))
                self.assertIn("stays · MIG-", "".join(texts(read(draw(plan)))))

    def test_processes_that_would_have_to_go_are_counted(self) -> None:
        layout(self.node, 0, **{"3g": 1, "1g": 2})
        first, *_, last = self.node.gpus[0].mig_devices
        for device in (first, last, last):
            self.busy(device.uuid)
        drawing = draw(self.node.plan(mig(0, **{"7g": 1})))
        self.assertTrue(any("3 processes would have to go" in text for text in texts(read(drawing))))

    def test_nothing_to_do_and_what_is_needed(self) -> None:
        self.node.plan(MODES["time_sliced"]).apply()
        plan = self.node.plan(MODES["time_sliced"])
        for before, after in self.rows(plan):
            self.assertEqual(before, after)
            self.assertEqual({cell[2] for cell in before}, {"stays"})
        self.assertTrue(any("nothing to do" in text for text in texts(read(draw(plan)))))
        pid = self.busy(0, "--command", "<b>mine</b>")
        plan = self.node.plan(
            spec({"select": 0, "mode": "mps", "mps": {"thread_percentage": 40, "max_clients": 2}})
        )
        said = "\n".join(texts(read(draw(plan))))
        self.assertIn("needs allow_evict", said)
        self.assertIn(f"pid {pid} <b>mine</b>", said)
        self.assertIn("needs allow_hazards hopper-partial-sm", said)


class Safe(Drawn):
    def test_notebooks_show_it(self) -> None:
        for thing in (self.node.status(), self.node.gpus[0], self.node.plan(MODES["mig"])):
            self.assertEqual(thing._repr_html_(), draw(thing))

    def test_what_comes_from_outside_is_only_text(self) -> None:
        self.busy(0)

        def spoil(value, key=None):
            """Every free text of a document, replaced."""
            if isinstance(value, dict):
                return {name: spoil(below, name) for name, below in value.items()}
            if isinstance(value, list):
                return [spoil(below) for below in value]
            return HOSTILE if key in {"model", "reason", "command", "cordoned"} else value

        document = spoil(self.node.status().to_dict())
        for gpu in document["gpus"]:
            gpu["cordoned"] = HOSTILE
        snapshot = Snapshot._from_json(json.dumps(document))
        self.assertEqual(snapshot.gpus[0].model, HOSTILE)
        drawing = draw(snapshot)
        root = read(drawing)
        self.assertNotIn("<script", drawing)
        for character in "\x1b\u202e\u200b\u200f\u2028\u2029\u061c\ufeff":
            self.assertNotIn(character, drawing)
        self.assertTrue(any(text.startswith("pid ") and "<script>alert(" in text for text in texts(root)))
        self.assertTrue(any(text.startswith("cordoned: <script>") for text in texts(root)))
        plan = self.node.plan(spec({"select": 0, "mode": "mps"})).to_dict()
        for gpu in plan["gpus"]:
            gpu["model"] = HOSTILE
            gpu["notes"] = [HOSTILE]
        self.assertNotIn("<script", draw(Plan._from_json(json.dumps(plan))))

    def test_a_number_in_a_document_bounds_nothing(self) -> None:
        for entry, most in (
            ({"mode": "time_sliced", "time_sliced": {"replicas": 7}}, 1024),
            ({"mode": "mps", "mps": {"max_clients": 7}}, 2**32 - 1),
        ):
            document = json.dumps(self.node.plan(spec({"select": 0, **entry})).to_dict())
            few = draw(Plan._from_json(document))
            for key in ("replicas", "max_clients"):
                document = document.replace(f'"{key}": 7', f'"{key}": {most}')
            drawing = draw(Plan._from_json(document))
            self.assertLess(len(drawing), 2 * len(few))
            self.assertIn(f"{most} shares", drawing)

    def test_it_can_be_read(self) -> None:
        for fill, ink in COLOURS.values():
            lighter, darker = sorted((luminance(fill), luminance(ink)), reverse=True)
            self.assertGreaterEqual((lighter + 0.05) / (darker + 0.05), 4.5, (fill, ink))
        for text in read(draw(self.node.status())).iter(SVG + "text"):
            self.assertIn(text.get("fill"), {"currentColor", *(ink for _, ink in COLOURS.values())})

    def test_it_says_no_more_than_the_object(self) -> None:
        for thing in (self.node.status(), self.node.gpus[0], self.node.plan(MODES["mig"])):
            drawing = draw(thing)
            self.assertEqual(draw(thing), drawing)
            self.assertEqual(draw(pickle.loads(pickle.dumps(thing))), drawing)
            self.assertEqual(draw(copy.deepcopy(thing)), drawing)
        one = draw(self.node.gpus[0])
        self.node.plan(spec({"select": 0, "mode": "exclusive"})).apply()
        self.assertNotEqual(draw(self.node.gpus[0]), one)

    def test_it_is_loaded_when_it_is_asked_for(self) -> None:
        alone(
            """
            import sys, gpushare
            node = gpushare.Node(sim="1xL40S")
            assert not {"gpushare._drawing", "gpushare._svg"} & set(sys.modules)
            gpushare.draw(node.status())
            """
        )

    def test_other_things_are_refused(self) -> None:
        for wrong in (None, "GPU-1", self.node, {}, self.node.plan(MODES["mig"]).gpus[0]):
            with self.assertRaisesRegex(TypeError, "draw"):
                gpushare.draw(wrong)


if __name__ == "__main__":
    unittest.main()
