import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from tests.trained_model import draw
from trainer.export import provenance
from whisker_ml import contract


def records(folder):
    dataset = tf.data.TFRecordDataset(str(folder / contract.WARMUP_FILE))
    return [PredictionLog.FromString(record.numpy()).predict_log.request for record in dataset]


def test_requests_have_one_picture_and_batches(tmp_path):
    pictures = [draw("cats", number) for number in range(3)]
    assert provenance.write_warmup(tmp_path, "whisker", pictures) == 4
    requests = records(tmp_path)
    assert [list(request.inputs) for request in requests] == [[contract.INPUT_BYTES]] * 4
    batches = [
        tf.make_ndarray(request.inputs[contract.INPUT_BYTES]).tolist() for request in requests
    ]
    assert [len(batch) for batch in batches] == [1, 1, 8, 32]
    assert {picture for batch in batches for picture in batch} == set(pictures)
    assert {request.model_spec.signature_name for request in requests} == {contract.SIGNATURE_BYTES}


def test_outputs_are_those_that_the_client_asks_for_first_and_later(tmp_path):
    provenance.write_warmup(tmp_path, "whisker", [draw("cats", 1)])
    asked_for = [tuple(request.output_filter) for request in records(tmp_path)]
    assert asked_for[:2] == [(), ("label", "probability", "probabilities", "valid", "unsure")]


def test_large_pictures_make_fewer_records_and_no_large_file(tmp_path):
    for size, count in ((100_000, 3), (1_500_000, 1), (2_500_000, 0)):
        assert provenance.write_warmup(tmp_path, "whisker", [bytes(size)]) == count
        assert len(records(tmp_path)) == count
        assert (tmp_path / contract.WARMUP_FILE).stat().st_size <= 2_010_000
