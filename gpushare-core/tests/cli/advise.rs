//! `advise`, run on a simulated node of each card.

use gpushare_core::backend::sim::PRODUCTS;
use serde_json::{Value, json};

use crate::place::Place;
use crate::schema::Schema;

#[track_caller]
fn advised(place: &Place, status: i32, arguments: &[&str]) -> Value {
    let mut all = vec!["--json", "advise"];
    all.extend(arguments);
    let document = place.run(&all).expect(status).document();
    Schema::named("advice").expect(&document);
    for option in document["options"].as_array().unwrap() {
        if !option["spec"].is_null() {
            Schema::named("spec").expect(&option["spec"]);
        }
    }
    document
}

#[test]
fn each_way_is_recommended_where_it_suits() {
    for (fleet, arguments, way) in [
        ("2xH200-141GB", &["--count", "2", "--kernels", "large"][..], "exclusive"),
        ("1xH200-141GB", &["--count", "3", "--kernels", "small"], "mps"),
        ("1xH200-141GB", &["--count", "3", "--isolation", "limits"], "mps"),
        ("1xH200-141GB", &["--count", "4", "--style", "interactive"], "time_sliced"),
        ("1xA100-40GB", &["--count", "3", "--memory", "9GiB", "--isolation", "strict"], "mig"),
    ] {
        let document = advised(&Place::new(fleet), 0, arguments);
        assert_eq!(document["recommended"], way, "{fleet} {arguments:?}\n{document:#}");
        assert_eq!(document["options"][0]["way"], way);
        assert_eq!(document["options"].as_array().unwrap().len(), 5);
    }
}

#[test]
fn what_is_written_is_planned_and_applied_on_every_card() {
    for product in PRODUCTS {
        let place = Place::new(&format!("2x{}", product.name));
        let demands = [
            &["--count", "2", "--kernels", "large"][..],
            &["--count", "4", "--kernels", "small"],
            &["--count", "3", "--isolation", "limits"],
            &["--count", "2", "--isolation", "strict"],
            &["--count", "5", "--memory", "1GiB", "--style", "interactive"],
        ];
        for (number, demand) in demands.into_iter().enumerate() {
            let file = place.path().join(format!("spec-{number}.yaml"));
            let file = file.to_str().unwrap();
            let mut arguments = demand.to_vec();
            arguments.extend(["--write", file]);
            // Nothing enforces limits on a card before Volta but a GPU for each.
            if product.compute_capability < (7, 0) && demand.contains(&"limits") {
                advised(&place, 2, &arguments);
                continue;
            }
            let document = advised(&place, 0, &arguments);
            let text = std::fs::read_to_string(file).unwrap();
            assert!(text.starts_with("# By `gpushare advise`: "), "{text}");
            // The same again is no change.
            advised(&place, 0, &arguments);
            let plan = place.run(&["--json", "plan", file]);
            assert!([0, 2].contains(&plan.status), "{plan:?}");
            assert_eq!(plan.document()["needs"], document["options"][0]["needs"]);
            place.done(&["apply", file, "--allow-reset"]);
            assert!(place.done(&["plan", file]).stdout.contains("Nothing to do."));
        }
    }
}

#[test]
fn no_other_file_is_written_over() {
    let place = Place::new("1xT4");
    let file = place.spec("mine.yaml", "mine");
    let refused = place.run(&["advise", "--count", "2", "--write", &file]);
    let refused = refused.expect_error("INVALID_ARGUMENT");
    assert!(refused.stderr.contains("mine.yaml"), "{refused:?}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    // Nor through a link, which may lead anywhere.
    let link = place.path().join("link.yaml");
    let target = place.path().join("target.yaml");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    place.run(&["advise", "--write", link.to_str().unwrap()]).expect_error("INVALID_ARGUMENT");
    assert!(!target.exists());
}

#[test]
fn where_nothing_fits_the_answer_is_no() {
    let place = Place::new("1xT4");
    let file = place.path().join("none.yaml");
    let file = file.to_str().unwrap();
    let document = advised(&place, 2, &["--count", "2", "--isolation", "strict", "--write", file]);
    assert_eq!(document["recommended"], Value::Null);
    for option in document["options"].as_array().unwrap() {
        assert!(option["fits"] == json!(false) && option["why_not"].is_string(), "{option:#}");
    }
    assert!(!std::path::Path::new(file).exists());
    let text = place.run(&["advise", "--memory", "100GiB"]).expect(2).stdout;
    assert!(text.contains("nothing fits"), "{text}");
}

#[test]
fn people_see_for_and_against_and_where_it_was_measured() {
    let place = Place::new("2xH200-141GB");
    let arguments = ["advise", "--count", "3", "--isolation", "limits", "--memory", "20GiB"];
    let text = place.done(&arguments).stdout;
    for part in [
        "SIMULATED\nFor 3 processes, 20GiB each, enforced limits:\nmps\n",
        "thread_percentage: 27",
        "pinned_memory_limit: 20GiB",
        "\n  way           fits  GPUs  needs\n  mps           yes      1  nothing\n",
        "  -  one faulting client ends its neighbours",
        "measured on H200",
        "1.63, 2.33 and 2.09 times",
        "62 of 66",
        "time_sliced  does not fit: ",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn the_gpus_that_nobody_uses_are_taken_first() {
    let place = Place::new("3xA100-80GB");
    place.done(&["sim", "busy", "0"]);
    let uuid = |index: usize| place.json(&["status"])["gpus"][index]["uuid"].clone();
    let document = advised(&place, 0, &["--count", "2", "--isolation", "strict"]);
    assert_eq!(document["options"][0]["gpus"], json!([uuid(1)]), "{document:#}");
    // Where only that one may be used, it is said what that takes.
    let document = advised(&place, 0, &["--count", "2", "--isolation", "strict", "-i", "0"]);
    let best = &document["options"][0];
    assert_eq!(best["gpus"], json!([uuid(0)]));
    assert!(!best["needs"]["evict"].as_array().unwrap().is_empty(), "{best:#}");
}

#[test]
fn bad_usage_is_refused() {
    let place = Place::new("1xT4");
    for arguments in [
        &["advise", "--count", "0"][..],
        &["advise", "--memory", "8"],
        &["advise", "--memory", "0GiB"],
        &["advise", "--kernels", "huge"],
        &["advise", "--isolation", "some"],
    ] {
        place.run(arguments).expect_error("INVALID_ARGUMENT");
    }
    place.run(&["advise", "-i", "9"]).expect_error("NOT_FOUND");
}
