//! Single cases: errors, and what fits.

use crate::error::ErrorCode;
use crate::id::ProfileId;
use crate::mig::fit::{Fit, fits};
use crate::mig::geometry::{Geometry, Placement, Profile};
use crate::mig::solve::{CurrentCompute, CurrentInstance, PlacedCompute, WantedInstance, solve};
use crate::mig::tests::geometries;

fn want(geometry: &Geometry, name: &str) -> WantedInstance {
    let profile = geometry.resolve(name.parse().unwrap()).unwrap();
    WantedInstance { profile: geometry.position(profile.id).unwrap(), start: None, compute: None }
}

fn wants(geometry: &Geometry, names: &str) -> Vec<WantedInstance> {
    names.split_whitespace().map(|name| want(geometry, name)).collect()
}

fn refused(geometry: &Geometry, wanted: &[WantedInstance]) -> (ErrorCode, String, Vec<String>) {
    let error = solve(geometry, &[], wanted).unwrap_err();
    (error.code(), error.to_string(), error.fits().to_vec())
}

#[test]
fn what_does_not_fit_is_refused_with_what_does() {
    let geometry = geometries::h100_with_media();
    assert_eq!(
        refused(&geometry, &wants(&geometry, "1g 2g 2g 3g 3g")),
        (
            ErrorCode::Insufficient,
            "2 x 3g.40gb + 2 x 2g.20gb + 1g.10gb do not fit on this GPU together: no arrangement \
             has room for all of them in its 8 slots; of these would fit \
             3g.40gb + 2 x 2g.20gb, or 2 x 3g.40gb, or 3g.40gb + 2g.20gb + 1g.10gb, or \
             2 x 2g.20gb + 1g.10gb"
                .to_owned(),
            vec![
                "3g.40gb + 2 x 2g.20gb".to_owned(),
                "2 x 3g.40gb".to_owned(),
                "3g.40gb + 2g.20gb + 1g.10gb".to_owned(),
                "2 x 2g.20gb + 1g.10gb".to_owned(),
            ]
        )
    );
    let (code, message, fits) = refused(&geometry, &wants(&geometry, "1g+me 1g+me"));
    assert_eq!((code, fits), (ErrorCode::Insufficient, vec!["1g.10gb+me".to_owned()]));
    assert!(message.contains("it takes at most 1 of 1g.10gb+me"), "{message}");

    let geometry = geometries::a30_with_media();
    let (code, message, fits) = refused(&geometry, &wants(&geometry, "1g+me 2g+me"));
    assert_eq!(code, ErrorCode::Insufficient);
    assert_eq!(fits, ["2g.12gb+me", "1g.6gb+me"]);
    assert!(message.contains("they take 2 JPEG decoders and it has 1"), "{message}");
}

#[test]
fn as_many_as_anybody_asks_for() {
    let geometry = geometries::h100();
    let (code, _, fits) = refused(&geometry, &vec![want(&geometry, "1g"); 100_000]);
    assert_eq!((code, fits), (ErrorCode::Insufficient, vec!["7 x 1g.10gb".to_owned()]));
    let mut seven = want(&geometry, "7g");
    seven.compute = Some(vec![1; 100_000]);
    let (code, _, fits) = refused(&geometry, &[seven]);
    assert_eq!((code, fits), (ErrorCode::Insufficient, vec!["7 x 1c.7g.80gb".to_owned()]));
}

#[test]
fn what_makes_no_sense_is_refused_with_what_does() {
    let geometry = geometries::h100();
    let three = want(&geometry, "3g");
    let at_two = WantedInstance { start: Some(2), ..three.clone() };
    assert_eq!(
        refused(&geometry, &[at_two]),
        (
            ErrorCode::InvalidArgument,
            "3g.40gb cannot start at slot 2, only at 0, 4".to_owned(),
            vec!["0".to_owned(), "4".to_owned()]
        )
    );
    let cut = |compute: &[u8]| WantedInstance { compute: Some(compute.to_vec()), ..three.clone() };
    let (code, message, _) = refused(&geometry, &[cut(&[4])]);
    assert_eq!(code, ErrorCode::InvalidArgument);
    assert_eq!(
        message,
        "3g.40gb is not cut into compute instances of 4 slices, only into 1c.3g.40gb, 2c.3g.40gb, 3g.40gb"
    );
    let (code, message, fits) = refused(&geometry, &[cut(&[2, 2])]);
    assert_eq!((code, fits), (ErrorCode::Insufficient, vec!["2c.3g.40gb".to_owned()]));
    assert_eq!(
        message,
        "2 x 2c.3g.40gb do not fit in one 3g.40gb of 3 compute slices; 2c.3g.40gb would"
    );
    let (code, ..) = refused(&geometry, &[cut(&[0])]);
    assert_eq!(code, ErrorCode::InvalidArgument);
    let nobody = WantedInstance { profile: 99, start: None, compute: None };
    assert_eq!(refused(&geometry, &[nobody]).0, ErrorCode::InvalidArgument);
    let instance = |profile| CurrentInstance {
        profile,
        placement: Placement::new(0, 1),
        busy: false,
        compute: Vec::new(),
    };
    let error = solve(&geometry, &[instance(99)], &[]).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
    let error = solve(&geometry, &vec![instance(0); 17], &[]).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unsupported);
}

#[test]
fn compute_instances_that_only_exist() {
    let geometry = geometries::h100();
    // Nobody knows of three slices in a 4g, and yet there they are.
    let mut four = want(&geometry, "4g");
    four.compute = Some(vec![3]);
    let compute = vec![CurrentCompute { slices: 3, start: 1, busy: true }];
    let placement = Placement::new(0, 4);
    let current = [CurrentInstance { profile: four.profile, placement, busy: false, compute }];
    let solution = solve(&geometry, &current, &[four.clone()]).unwrap();
    assert_eq!(solution.cost.creates, 0);
    let error = solve(&geometry, &current, &[four.clone(), four.clone()]).unwrap_err();
    assert_eq!(error.fits(), ["4g.40gb"]);
    assert_eq!(refused(&geometry, &[four]).0, ErrorCode::InvalidArgument);

    let mut three = want(&geometry, "3g");
    three.compute = Some(vec![2, 1]);
    let compute = vec![CurrentCompute { slices: 2, start: 1, busy: true }];
    let placement = Placement::new(4, 4);
    let current = [CurrentInstance { profile: three.profile, placement, busy: false, compute }];
    let solution = solve(&geometry, &current, &[three]).unwrap();
    let compute = &solution.instances[0].compute;
    assert_eq!(compute[0], PlacedCompute { slices: 2, start: 1, keeps: Some(0) });
    assert_eq!(compute[1], PlacedCompute { slices: 1, start: 0, keeps: None });
}

#[test]
fn a_fixed_start_takes_part() {
    let geometry = geometries::h100();
    let at = |start| WantedInstance { start: Some(start), ..want(&geometry, "1g") };
    let starts = |wanted: &[WantedInstance]| -> Vec<u8> {
        let solution = solve(&geometry, &[], wanted).unwrap();
        solution.instances.iter().map(|placed| placed.placement.start).collect()
    };
    assert_eq!(starts(&[at(6), want(&geometry, "4g")]), [6, 0]);
    let both = [at(4), at(4)];
    let (code, _, fits) = refused(&geometry, &both);
    assert_eq!((code, fits), (ErrorCode::Insufficient, vec!["1g.10gb at 4".to_owned()]));
}

#[test]
fn what_fits_beside_a_layout() {
    let geometry = geometries::h100_with_media();
    let three = want(&geometry, "3g").profile;
    let me = want(&geometry, "1g+me").profile;
    let left = fits(&geometry, &[(three, Placement::new(0, 4)), (me, Placement::new(6, 1))]);
    let named = |fit: &Fit| {
        let starts: Vec<_> = fit.placements.iter().map(|placement| placement.start).collect();
        (geometry.profiles()[fit.profile].name.to_string(), starts)
    };
    let left: Vec<_> = left.iter().map(named).collect();
    // Of 1g.10gb+me there may be one.
    assert_eq!(
        left,
        [
            ("2g.20gb".to_owned(), vec![4]),
            ("1g.20gb".to_owned(), vec![4]),
            ("1g.10gb".to_owned(), vec![4, 5]),
        ]
    );
    assert_eq!(fits(&geometry, &[]).len(), 7);
}

#[test]
fn a_geometry_that_the_planner_cannot_pack_is_refused() {
    let profile = |change: fn(&mut Profile)| {
        let mut profiles: Vec<_> = geometries::h100().into();
        change(&mut profiles[0]);
        Geometry::new(profiles)
    };
    assert!(profile(|_| ()).is_ok());
    assert!(profile(|profile| profile.placements.push(Placement::new(0, 4))).is_err());
    assert!(profile(|profile| profile.slices = 16).is_err());
}

/// No GPU is like this; a driver's nonsense must not hang the planner.
#[test]
fn more_ways_than_can_be_looked_at_are_refused() {
    let like = geometries::h100().profiles()[5].clone();
    let profile = |id, max_instances, slices, starts: u8| Profile {
        id: ProfileId::new(id),
        max_instances,
        slices,
        placements: (0..starts).map(|start| Placement::new(start, 1)).collect(),
        ..like.clone()
    };
    let each = |profile| WantedInstance { profile, start: None, compute: None };
    let all: Vec<_> = (0..16).map(each).collect();
    let geometry =
        |starts| Geometry::new((0..16).map(|id| profile(id, 1, 1, starts)).collect()).unwrap();
    assert_eq!(solve(&geometry(16), &[], &all).unwrap_err().code(), ErrorCode::Unsupported);
    // One slot too few.
    let error = solve(&geometry(15), &[], &all).unwrap_err();
    assert!(matches!(error.code(), ErrorCode::Unsupported | ErrorCode::Insufficient), "{error}");

    let geometry = Geometry::new(vec![profile(0, 16, 15, 16)]).unwrap();
    let cut = WantedInstance { compute: Some(vec![1; 15]), ..each(0) };
    let error = solve(&geometry, &[], &vec![cut; 16]).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unsupported);
}
