use super::CatalogFile;

fn check(file: &str) -> Result<(), String> {
    toml::from_str::<CatalogFile>(file).map_err(|error| error.to_string())?.check()
}

#[test]
fn the_shipped_example_is_applicable() {
    check(include_str!("../../../packaging/control-plane/catalog.example.toml")).unwrap();
}

#[test]
fn an_entry_that_makes_no_sense_is_named() {
    let plan = |change: &str| {
        format!(
            "[[plans]]\ncode = 's'\nname = 'S'\nvcpu = 1\nmemory_mib = 1024\ndisk_gib = 10\ntraffic_gib = 1\n{change}"
        )
    };
    let price = |change: &str| plan(&format!("[[plans.prices]]\ninterval = 'month'\n{change}"));
    for (file, named) in [
        (price("currency = 'EUR'\namount_minor = 1"), "plan s"),
        (price("currency = 'eur'\namount_minor = 0"), "plan s"),
        (price("currency = 'xxx'\namount_minor = 900"), "no currency that Stripe takes"),
        (price("currency = 'isk'\namount_minor = 950"), "multiples of 100"),
        (price("currency = 'eur'\namount_minor = 1\nversion = 0"), "plan s"),
        (format!("{0}\n{0}", plan("prices = []")), "plan s is there twice"),
        (plan("prices = []").replace("code = 's'", "code = 'S x'"), "S x"),
        (plan("prices = []").replace("vcpu = 1", "vcpu = 0"), "plan s"),
        (plan("colour = 'red'"), "colour"),
        (plan("backups = 101\nprices = []"), "plan s"),
        ("[[isos]]\nfile = '../x.iso'\nname = 'X'".to_owned(), "../x.iso"),
        ("[[images]]\ncode = 'd'\nname = 'D'\nversion = '1'\ndigest = 'md5:1'".to_owned(), "image d"),
    ] {
        let refused = check(&file).unwrap_err();
        assert!(refused.contains(named), "{refused:?} does not name {named:?}");
    }
    assert_eq!(check(&price("currency = 'eur'\namount_minor = 900")), Ok(()));
}
