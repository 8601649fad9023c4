from cluster.spelling import near, nearest


def test_nearest_names() -> None:
    known = ("path", "patient", "view_position", "x_min")
    wanted = {"Patient_ID": "patient", "ViewPosition": "view_position", "xmin": "x_min", "PATH": "path", "zebra": None}
    assert {name: near(name, known, 0.7) for name in wanted} == wanted
    assert near("Épaule", ("epanchement", "épaule")) == "épaule"
    assert near("zebra", known, 0.0) is not None


def test_a_hint_or_the_list() -> None:
    assert nearest("pretrian", ["pretrain", "finetune"]) == "; did you mean 'pretrain'?"
    assert nearest("zzz", ["pretrain", "finetune"]) == "; there are: pretrain, finetune"
