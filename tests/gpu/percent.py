#!/usr/bin/env python3
"""Multiprocessors that a client sees under CUDA_MPS_ACTIVE_THREAD_PERCENTAGE with decimals, against
the rule max(8, 2 * floor(percent * total / 200)); and under daemons enabled with decimals."""

import concurrent.futures

from harness import brief, main, parser, sms

DECIMALS = ["0.5", "6.25", "7.58", "8.33", "9.99", "12.5", "14.28", "16.67", "33.3", "66.7", "99.99"]
HALVES = [f"{whole}.5" for whole in range(100)]
# Of gpushare itself, and the hazards that have to be allowed for them.
DAEMONS = [("12.5", []), ("25.5", []), ("33.3", ["hopper-partial-sm", "hopper-unmeasured"]),
           ("0.5", ["minimum-sm", "hopper-unmeasured"])]
AT_ONCE = 8


def body(session, report):
    plain = session.look()
    if not report.check("a CUDA process sees the GPU", plain["event"] == "ready", brief(plain)):
        return
    total = plain["sm_count"]
    mps = session.enable()
    whole = session.look(pipe=mps["directory"])
    report.check("without a percentage a client sees all", whole.get("sm_count") == total, brief(whole))

    values = sorted({*DECIMALS, *HALVES}, key=float)

    def see(percent):
        return session.look(pipe=mps["directory"], CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=percent)

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        seen = dict(zip(values, pool.map(see, values)))
    report.say("percent  SMs  rule")
    others = []
    for percent in values:
        rule, found = sms(float(percent), total), seen[percent].get("sm_count")
        if found != rule:
            others.append([percent, found, rule])
        report.say(f"{percent:>7}  {found if found is not None else brief(seen[percent])!s:>3}  "
                   f"{rule:>4}{'' if found == rule else '  <- differs'}")
    report.figure("values", len(values))
    report.figure("differ", others)
    report.check("the rule holds for every value", not others, others)
    answer = session.disable("--grace", "10")
    report.check("mps disable", answer.rc == 0, answer)

    for percent, hazards in DAEMONS:
        allowed = [word for hazard in hazards for word in ("--allow-hazard", hazard)]
        mps = session.enable("--thread-percentage", percent, *allowed)
        found = session.look(pipe=mps["directory"])
        rule = sms(float(percent), total)
        report.check(f"a client of a daemon enabled at {percent} % sees {rule} SMs",
                     found.get("sm_count") == rule, brief(found))
        answer = session.disable("--grace", "10")
        report.check(f"mps disable after {percent} %", answer.rc == 0, answer)


if __name__ == "__main__":
    main("percent", parser(__doc__).parse_args(), body)
